"""The annotation app: pages for people, a JSON API for programs, over one preference store."""
