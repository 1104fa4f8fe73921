"""Floor 3: what a recipe may say, how it is read, and the page that documents it."""
