// Colours come from the style sheet, so that canvases are light or dark as the page is.

export const HEADS = 8; // different colours; after that they repeat, and the number beside them tells

export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export const headColor = (head) => color(`head-${head % HEADS}`);

export function onTheme(redraw) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

// A clean canvas of so many CSS pixels, sharp on dense screens; what it is drawn with.
export function prepare(canvas, width, height) {
  const density = Math.min(devicePixelRatio || 1, 2, 8000 / Math.max(width, height, 1));
  const [across, down] = [width, height].map((size) => Math.max(1, Math.round(size * density)));
  if (canvas.width !== across || canvas.height !== down) {
    [canvas.width, canvas.height] = [across, down];
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}
