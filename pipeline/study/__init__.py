"""The user study: volunteers rank turntables of anonymous methods (plan → clips → web pages → results)."""
