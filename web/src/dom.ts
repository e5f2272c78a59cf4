// Elements in one line each. No style attribute is ever written: the page's policy forbids them.

type Child = Node | string | number | null | undefined | false;
type Attributes = Record<string, string | number | boolean | ((event: never) => void) | undefined>;

/** An element with attributes; those that begin with "on" are listeners, and true or false sets or leaves out a plain one. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: (Child | Child[])[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(key.slice(2), value as (event: Event) => void);
    else if (value === true) element.setAttribute(key, "");
    else element.setAttribute(key, String(value));
  }
  for (const child of children.flat()) {
    if (child || child === 0) element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

export function button(label: string, title: string, click: () => void, name = ""): HTMLButtonElement {
  return h("button", { type: "button", title, "aria-label": title, class: name || undefined, onclick: click }, label);
}

export function select(label: string, options: [string, string][], value: string, change: (v: string) => void) {
  const list = h("select", { "aria-label": label, onchange: () => change(list.value) });
  for (const [key, text] of options) list.append(h("option", { value: key, selected: key === value }, text));
  return list;
}

/** A canvas that keeps the size of its box and the screen's resolution; `draw` is called where either changes. */
export class Surface {
  readonly canvas: HTMLCanvasElement;
  width = 0;
  height = 0;
  private pending = false;

  constructor(
    attributes: Attributes,
    private readonly draw: (context: CanvasRenderingContext2D) => void,
  ) {
    this.canvas = h("canvas", attributes);
    new ResizeObserver(() => {
      this.measure();
      this.paint();
    }).observe(this.canvas);
  }

  measure(): void {
    const { clientWidth, clientHeight } = this.canvas;
    this.width = clientWidth;
    this.height = clientHeight;
  }

  /** Draw before the next frame, once. */
  request(): void {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.paint();
    });
  }

  paint(): void {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(this.width * ratio), Math.round(this.height * ratio)];
    if (!width || !height) return;
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    const context = this.canvas.getContext("2d");
    if (!context) return;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    this.draw(context);
  }
}
