"""The user study: volunteers rank turntables whose methods they cannot tell (plan → clips → web → results)."""
