"""The judge: Stable Diffusion loaded, asked, and, for small data, trained. No Ray here."""
