"""ddps_ray: data set distillation by diffusion-driven patch selection, as Ray jobs."""
