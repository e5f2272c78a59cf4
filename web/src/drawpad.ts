// A place to draw a digit: what is drawn is centred in 28 x 28 by its mass and scaled to 20 x 20, as MNIST's were.

import { button, h } from "./dom";

const SIDE = 280;
const DIGIT = 28;
const INNER = 20;
const WAIT = 120; // milliseconds after the last stroke

export class DrawPad {
  readonly element: HTMLElement;
  private readonly canvas = h("canvas", { class: "pad", role: "img", "aria-label": "Draw a digit here" });
  private readonly context: CanvasRenderingContext2D | null;
  private timer = 0;

  constructor(private readonly done: (ink: Uint8Array<ArrayBuffer>) => void) {
    this.canvas.width = SIDE;
    this.canvas.height = SIDE;
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.clear();
    this.element = h(
      "div",
      { class: "draw" },
      this.canvas,
      h(
        "div",
        {},
        button("clear", "Clear what is drawn", () => this.clear()),
        button("a seven", "Draw a seven, without a pointer", () => this.example()),
      ),
    );
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      this.line(event.offsetX, event.offsetY, event.offsetX, event.offsetY);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!event.buttons) return;
      this.line(event.offsetX - event.movementX, event.offsetY - event.movementY, event.offsetX, event.offsetY);
    });
    this.canvas.addEventListener("pointerup", () => this.soon());
  }

  private clear(): void {
    if (!this.context) return;
    this.context.fillStyle = "#000";
    this.context.fillRect(0, 0, SIDE, SIDE);
  }

  private example(): void {
    this.clear();
    this.line(70, 70, 200, 70);
    this.line(200, 70, 130, 220);
    this.soon();
  }

  private line(x0: number, y0: number, x1: number, y1: number): void {
    const c = this.context;
    if (!c) return;
    c.strokeStyle = "#fff";
    c.lineWidth = 22;
    c.lineCap = "round";
    c.beginPath();
    c.moveTo(x0, y0);
    c.lineTo(x1, y1 + 0.01);
    c.stroke();
    this.soon();
  }

  private soon(): void {
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => this.send(), WAIT);
  }

  private send(): void {
    const ink = this.context && centred(this.context);
    if (ink) this.done(ink);
  }
}

/** The box of the ink scaled to 20 pixels, its centre of mass in the middle of 28 x 28; nothing of an empty pad. */
function centred(context: CanvasRenderingContext2D): Uint8Array<ArrayBuffer> | undefined {
  const { data } = context.getImageData(0, 0, SIDE, SIDE);
  let [left, right, top, bottom] = [SIDE, -1, SIDE, -1];
  for (let y = 0; y < SIDE; y++) {
    for (let x = 0; x < SIDE; x++) {
      if (data[4 * (y * SIDE + x)] < 40) continue;
      [left, right] = [Math.min(left, x), Math.max(right, x)];
      [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
    }
  }
  if (right < 0) return undefined;
  const scale = INNER / Math.max(right - left + 1, bottom - top + 1);
  const draw = (dx: number, dy: number): Uint8ClampedArray => {
    const small = h("canvas");
    small.width = DIGIT;
    small.height = DIGIT;
    const c = small.getContext("2d")!;
    c.fillRect(0, 0, DIGIT, DIGIT);
    c.imageSmoothingQuality = "high";
    const [width, height] = [(right - left + 1) * scale, (bottom - top + 1) * scale];
    c.drawImage(context.canvas, left, top, right - left + 1, bottom - top + 1, dx, dy, width, height);
    return c.getImageData(0, 0, DIGIT, DIGIT).data;
  };
  const first = draw(4, 4);
  let [mass, mx, my] = [0, 0, 0];
  for (let i = 0; i < DIGIT * DIGIT; i++) {
    mass += first[4 * i];
    mx += first[4 * i] * (i % DIGIT);
    my += first[4 * i] * Math.floor(i / DIGIT);
  }
  const moved = draw(4 + Math.round(DIGIT / 2 - mx / mass), 4 + Math.round(DIGIT / 2 - my / mass));
  return Uint8Array.from({ length: DIGIT * DIGIT }, (_, i) => moved[4 * i]);
}
