"""A whole run that needs no download: drawn data, and a small diffusion model that comes with the package."""
