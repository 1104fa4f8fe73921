// The state in the address, so that a link or a reload shows the same.

const KINDS = ["encoder", "decoder", "cross"];
const headText = ({ kind, layer, head }) => `${kind}.${layer + 1}.${head + 1}`;

function headOf(text) {
  const [kind, layer, head] = (text ?? "").split(".");
  const found = { kind, layer: Number(layer) - 1, head: Number(head) - 1 };
  return KINDS.includes(kind) && found.layer >= 0 && found.head >= 0 ? found : null;
}

export function write(question, states) {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(question)) if (value !== "") parts.set(name, value);
  states.forEach(({ prefix, off, show, view, tab }, i) => {
    if (typeof prefix === "string" && prefix) parts.set(`begin${i}`, prefix);
    if (Array.isArray(prefix) && prefix.length) parts.set(`prefix${i}`, prefix.join("."));
    if (off.length) parts.set(`off${i}`, off.map(headText).join(","));
    if (show) parts.set(`show${i}`, show);
    if (view) parts.set(`view${i}`, headText(view));
    if (tab && tab !== "attention") parts.set(`tab${i}`, tab);
  });
  return `#${parts}`;
}

export function read(hash, count) {
  const parts = new URLSearchParams(hash.replace(/^#/, ""));
  const question = Object.fromEntries(["source", "beam", "n", "penalty"].map((name) => [name, parts.get(name) ?? ""]));
  const states = Array.from({ length: count }, (_, i) => {
    const ids = (parts.get(`prefix${i}`) ?? "").split(".").filter((id) => /^\d+$/.test(id)).map(Number);
    return {
      prefix: parts.get(`begin${i}`) ?? ids,
      off: (parts.get(`off${i}`) ?? "").split(",").map(headOf).filter((head) => head !== null),
      show: Math.min(19, Number.parseInt(parts.get(`show${i}`), 10) || 0),
      view: headOf(parts.get(`view${i}`)),
      tab: parts.get(`tab${i}`) ?? "attention",
    };
  });
  return { question, states };
}
