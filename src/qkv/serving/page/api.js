// The server's answers. A refusal becomes an Error that carries the server's sentence.

export async function models() {
  return read(await fetch("api/models"));
}

// People count layers and heads from 1, and so does the server; this page's arrays begin at 0.
export async function ask(what, { off, ...question }, signal) {
  const heads = off.map(({ kind, layer, head }) => ({ kind, layer: layer + 1, head: head + 1 }));
  let response;
  try {
    response = await fetch(`api/${what}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...question, off: heads }),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: has it been ended?");
  }
  return read(response);
}

async function read(response) {
  const answer = await response.json().catch(() => ({ error: `The server answered ${response.status}` }));
  if (!response.ok) throw new Error(answer.error ?? `The server answered ${response.status}`);
  return answer;
}

const AXES = { encoder: ["source", "source"], decoder: ["read", "read"], cross: ["target", "source"] };

// Maps of one kind: which tokens look (rows), at which (columns), and the weight of each pair.
export function mapsOf(answer, kind) {
  const { shape, data } = answer.maps[kind];
  const [layers, heads, height, width] = shape;
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const numbers = new DataView(bytes.buffer);
  const weights = new Float32Array(layers * heads * height * width);
  for (let i = 0; i < weights.length; i++) weights[i] = numbers.getUint16(2 * i, true) / 65535;
  const [rows, columns] = AXES[kind].map((name) => answer[name].map(({ piece }) => piece));
  return {
    kind, layers, heads, rows, columns,
    // (row, column) of one head, as one flat array
    of: (layer, head) => {
      const start = (layer * heads + head) * height * width;
      return weights.subarray(start, start + height * width);
    },
  };
}
