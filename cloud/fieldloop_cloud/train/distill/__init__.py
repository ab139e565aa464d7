"""Knowledge distillation: a small model that learns what a large one answers."""
