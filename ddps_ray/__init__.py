"""ddps_ray: data set distillation by diffusion-driven patch selection, as Ray jobs."""

__version__ = "0.1.0"
