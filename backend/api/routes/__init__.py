"""The routes: each translates, calls one service, and translates back."""
