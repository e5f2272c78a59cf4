// The graph on the screen: moving, zooming, choosing and unfolding it by pointer, touch and keyboard, and its overview.

import { mix } from "./colour";
import { button, h, Surface } from "./dom";
import { type Drawing, saving } from "./export";
import { type Box, type Layout, Layouter } from "./layout";
import { groupItem, type Item, isGroup, type Network } from "./network";
import { CanvasPainter } from "./painter";
import { drawScene, type Look } from "./scene";
import { visibleOf } from "./visible";
import { neighbour } from "./walk";

export interface Shown {
  net: Network;
  open: ReadonlySet<string>;
  views: boolean;
  look: Look;
  title: string;
}

export interface Actions {
  choose(item: Item): void;
  toggle(item: Item): void;
  openAll(): void;
  closeAll(): void;
  toggleViews(): void;
  moved(): void;
}

const KEYS = "Arrow keys walk along the graph, Enter unfolds or folds, plus and minus zoom, 0 shows all of it, Escape goes up.";
const LEAST = 0.02;
const MOST = 4;

export class GraphView {
  readonly element: HTMLElement;
  private readonly surface: Surface;
  private readonly map: Surface;
  private readonly said: HTMLElement;
  private readonly views: HTMLButtonElement;
  private shown: Shown | undefined;
  private layouter: Layouter | undefined;
  private layouterKey = "";
  layout: Layout = { boxes: [], lines: [], width: 0, height: 0 };
  private x = 0; // of the graph's corner on the screen
  private y = 0;
  private scale = 1;
  private fresh = true; // nobody has moved it yet: it follows the size of the window
  private wanted = ""; // where it is to begin, as `view` gives it
  private readonly pointers = new Map<number, { x: number; y: number }>();
  private moved = 0;

  constructor(private readonly actions: Actions) {
    this.said = h("div", { class: "unseen", "aria-live": "polite" });
    this.surface = new Surface(
      {
        class: "graph",
        tabindex: 0,
        role: "application",
        "aria-label": "Graph of the network",
        "aria-describedby": "graph-keys",
      },
      (context) => this.draw(context),
    );
    this.map = new Surface({ class: "map", "aria-hidden": "true" }, (context) => this.drawMap(context));
    this.views = button("views", "Show views: operations that only change shapes", actions.toggleViews, "quiet");
    this.element = h(
      "div",
      { class: "graph-view" },
      this.surface.canvas,
      this.map.canvas,
      h(
        "div",
        { class: "graph-tools", role: "toolbar", "aria-label": "Graph" },
        button("+", "Zoom in", () => this.zoom(1.4)),
        button("−", "Zoom out", () => this.zoom(1 / 1.4)),
        button("fit", "Fit all of it", () => this.fit()),
        button("unfold", "Unfold everything", actions.openAll),
        button("fold", "Fold everything", actions.closeAll),
        this.views,
        saving(
          () => `${this.shown?.net.doc.name ?? "graph"}-graph`,
          () => this.drawing(),
          () => this.shown!.look.theme,
        ),
      ),
      this.said,
    );
    this.listen();
  }

  show(shown: Shown): void {
    const before = this.shown;
    this.shown = shown;
    const key = `${shown.net.doc.name} ${shown.net.doc.regimes.indexOf(shown.net.regime)} ${shown.views}`;
    if (key !== this.layouterKey || before?.net.regime !== shown.net.regime) {
      this.layouter = new Layouter(shown.net, shown.views);
      this.layouterKey = key;
      if (before?.net.doc.name !== shown.net.doc.name) this.fresh = true;
    }
    const anchor = before && !this.fresh ? this.anchor() : undefined;
    this.layout = this.layouter!.layout(shown.open);
    if (anchor) this.keep(anchor);
    this.views.setAttribute("aria-pressed", String(shown.views));
    this.repaint();
  }

  private repaint(): void {
    this.surface.request();
    this.map.request();
    if (!this.fresh) this.actions.moved();
  }

  /** What is in the middle, in the graph's own measure, and the scale: "x,y,scale"; "" while nobody has moved it. */
  get view(): string {
    if (this.fresh) return this.wanted;
    const { width, height } = this.surface;
    const [x, y] = [(width / 2 - this.x) / this.scale, (height / 2 - this.y) / this.scale];
    return `${Math.round(x)},${Math.round(y)},${Number(this.scale.toPrecision(3))}`;
  }

  /** Show what `view` said; "" is as the graph begins. */
  go(view: string): void {
    const numbers = view.split(",").map(Number);
    this.wanted = view && numbers.length === 3 && numbers.every(Number.isFinite) ? view : "";
    this.fresh = true;
    this.repaint();
  }

  /** The chosen box, or the first in sight, and where it is: it stays there while the rest moves. */
  private anchor(): { item: Item; x: number; y: number } | undefined {
    const chosen = this.shown?.look.selected;
    const box = this.layout.boxes.find((b) => b.item === chosen) ?? this.layout.boxes.find((b) => this.screenY(b.y) > 0);
    return box && { item: box.item, x: this.screenX(box.x), y: this.screenY(box.y) };
  }

  private keep({ item, x, y }: { item: Item; x: number; y: number }): void {
    const box = this.layout.boxes.find((b) => b.item === item);
    if (!box) return;
    this.x += x - this.screenX(box.x);
    this.y += y - this.screenY(box.y);
  }

  private screenX = (x: number): number => this.x + x * this.scale;
  private screenY = (y: number): number => this.y + y * this.scale;

  private draw(context: CanvasRenderingContext2D): void {
    if (!this.shown) return;
    if (this.fresh) this.begin();
    const painter = new CanvasPainter(context);
    const { scale } = this;
    const area = {
      x: -this.x / scale,
      y: -this.y / scale,
      width: this.surface.width / scale,
      height: this.surface.height / scale,
      scale,
    };
    painter.push(this.x, this.y, scale);
    drawScene(painter, this.shown.net, this.layout, this.shown.look, area);
    painter.pop();
  }

  /** All of it, or its beginning where all would be too small to read. */
  private begin(): void {
    const { width, height } = this.surface;
    if (!width || !height) return;
    if (this.wanted) {
      const [x, y, scale] = this.wanted.split(",").map(Number);
      this.scale = Math.min(MOST, Math.max(LEAST, scale));
      this.x = width / 2 - x * this.scale;
      this.y = height / 2 - y * this.scale;
      this.wanted = "";
      this.fresh = false;
      this.map.request();
      return;
    }
    const whole = Math.min((width - 40) / this.layout.width, (height - 90) / this.layout.height);
    this.scale = Math.min(1.1, Math.max(0.55, whole));
    this.x = (width - this.layout.width * this.scale) / 2;
    this.y = whole >= 0.55 ? Math.max(56, (height - this.layout.height * this.scale) / 2) : 60;
    this.map.request();
  }

  fit(): void {
    const { width, height } = this.surface;
    this.scale = Math.min(1.2, Math.max(LEAST, Math.min((width - 40) / this.layout.width, (height - 90) / this.layout.height)));
    this.x = (width - this.layout.width * this.scale) / 2;
    this.y = Math.max(56, (height - this.layout.height * this.scale) / 2);
    this.fresh = false;
    this.repaint();
  }

  zoom(by: number, x = this.surface.width / 2, y = this.surface.height / 2): void {
    this.fresh = false;
    const scale = Math.min(MOST, Math.max(LEAST, this.scale * by));
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.repaint();
  }

  /** Bring an item into sight. */
  reveal(item: Item): void {
    if (!this.shown) return;
    const box = this.layout.boxes.find((b) => b.item === visibleOf(this.shown!.net, item, this.shown!.open));
    if (!box) return;
    const { width, height } = this.surface;
    this.fresh = false;
    if (this.scale < 0.4) this.scale = 0.7;
    const [left, top] = [this.screenX(box.x), this.screenY(box.y)];
    const [right, bottom] = [left + box.width * this.scale, top + box.height * this.scale];
    if (left < 10 || right > width - 10) this.x += width / 2 - (left + right) / 2;
    if (top < 60 || bottom > height - 20) this.y += box.open ? 80 - top : height / 2 - (top + bottom) / 2;
    this.repaint();
  }

  /** Where a layer is on the page, for who wants to point at it. */
  placeOf(item: Item): { x: number; y: number } | undefined {
    const box = this.layout.boxes.find((b) => b.item === item);
    const corner = this.surface.canvas.getBoundingClientRect();
    return (
      box && {
        x: corner.left + this.screenX(box.x) + (box.width * this.scale) / 2,
        y: corner.top + this.screenY(box.y) + Math.min(box.height / 2, 12) * this.scale,
      }
    );
  }

  private boxAt(x: number, y: number): Box | undefined {
    const [gx, gy] = [(x - this.x) / this.scale, (y - this.y) / this.scale];
    const under = this.layout.boxes.filter((b) => gx >= b.x && gx <= b.x + b.width && gy >= b.y && gy <= b.y + b.height);
    return under[under.length - 1];
  }

  // ---- pointer, wheel and keys --------------------------------------------------------------------------------------

  private listen(): void {
    const { canvas } = this.surface;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
      this.moved = 0;
    });
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    canvas.addEventListener("pointercancel", (event) => this.pointers.delete(event.pointerId));
    canvas.addEventListener("pointerup", (event) => {
      const alone = this.pointers.size === 1;
      this.pointers.delete(event.pointerId);
      if (alone && this.moved < 5) this.click(event.offsetX, event.offsetY);
    });
    canvas.addEventListener("dblclick", (event) => {
      const box = this.boxAt(event.offsetX, event.offsetY);
      if (box && isGroup(box.item) && !this.onSign(box, event.offsetX)) this.actions.toggle(box.item);
    });
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), event.offsetX, event.offsetY);
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => this.key(event));
    this.map.canvas.addEventListener("pointerdown", (event) => this.mapTo(event));
    this.map.canvas.addEventListener("pointermove", (event) => event.buttons && this.mapTo(event));
  }

  private drag(event: PointerEvent): void {
    const last = this.pointers.get(event.pointerId);
    if (!last) {
      this.surface.canvas.classList.toggle("over", this.boxAt(event.offsetX, event.offsetY) !== undefined);
      return;
    }
    const [x, y] = [event.offsetX, event.offsetY];
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId);
    if (others.length) {
      const [, other] = others[0];
      const before = Math.hypot(last.x - other.x, last.y - other.y) || 1;
      this.zoom(Math.hypot(x - other.x, y - other.y) / before, other.x, other.y);
      this.moved = 10;
    } else {
      this.fresh = false;
      this.moved += Math.abs(x - last.x) + Math.abs(y - last.y);
      this.x += x - last.x;
      this.y += y - last.y;
      this.repaint();
    }
    this.pointers.set(event.pointerId, { x, y });
  }

  /** Whether a place is on a group's plus or minus. */
  private onSign(box: Box, x: number): boolean {
    const [left, right] = [this.screenX(box.x), this.screenX(box.x + box.width)];
    return box.open ? x - left < 24 * this.scale : right - x < 34 * this.scale;
  }

  private click(x: number, y: number): void {
    const box = this.boxAt(x, y);
    if (!box) return;
    this.fresh = false;
    this.actions.choose(box.item);
    if (isGroup(box.item) && this.onSign(box, x)) this.actions.toggle(box.item);
  }

  private key(event: KeyboardEvent): void {
    if (event.altKey || event.ctrlKey || event.metaKey || !this.shown) return;
    const { net } = this.shown;
    const chosen = this.shown.look.selected;
    const current = chosen === undefined ? undefined : visibleOf(net, chosen, this.shown.open);
    const go = (item: Item | undefined): void => {
      if (item === undefined) return;
      this.actions.choose(item);
      this.reveal(item);
      this.said.textContent = `${net.name(item)}, ${this.shown!.look.value(item)}`;
    };
    const acts: Record<string, () => void> = {
      "+": () => this.zoom(1.3),
      "=": () => this.zoom(1.3),
      "-": () => this.zoom(1 / 1.3),
      "0": () => this.fit(),
      Home: () => go(this.layout.boxes[0]?.item),
    };
    if (current !== undefined && isGroup(current)) acts.Enter = acts[" "] = () => this.actions.toggle(current);
    const above = current === undefined ? -1 : net.parentOf(current);
    if (above > 0) acts.Escape = () => go(groupItem(above));
    for (const key of ["ArrowDown", "ArrowUp", "ArrowLeft", "ArrowRight"]) {
      acts[key] = () => go(neighbour(this.shown!, this.layout, current, key));
    }
    const act = acts[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  // ---- the overview, and files ----------------------------------------------------------------------------------------

  private mapScale(): number {
    return Math.min((this.map.width - 8) / this.layout.width, (this.map.height - 8) / this.layout.height);
  }

  private drawMap(context: CanvasRenderingContext2D): void {
    if (!this.shown) return;
    const k = this.mapScale();
    const { look } = this.shown;
    const left = (this.map.width - this.layout.width * k) / 2;
    for (const box of this.layout.boxes) {
      context.fillStyle = box.open ? mix(look.theme.paper, look.theme.ink, 0.08) : look.colour(box.item);
      context.fillRect(left + box.x * k, 4 + box.y * k, Math.max(1, box.width * k), Math.max(1, box.height * k));
    }
    context.strokeStyle = look.theme.mark;
    context.lineWidth = 1.5;
    const { width, height } = this.surface;
    const [x, y] = [left + (-this.x / this.scale) * k, 4 + (-this.y / this.scale) * k];
    context.strokeRect(x, y, (width / this.scale) * k, (height / this.scale) * k);
  }

  private mapTo(event: PointerEvent): void {
    const k = this.mapScale();
    this.fresh = false;
    const left = (this.map.width - this.layout.width * k) / 2;
    this.x = this.surface.width / 2 - ((event.offsetX - left) / k) * this.scale;
    this.y = this.surface.height / 2 - ((event.offsetY - 4) / k) * this.scale;
    this.repaint();
  }

  drawing(): Drawing {
    const { net, look, title } = this.shown!;
    const margin = 24;
    const { layout } = this;
    const [width, height] = [layout.width + 2 * margin, layout.height + 2 * margin + 20];
    return {
      title,
      width,
      height,
      draw: (painter) => {
        painter.text(title, margin, 24, { size: 14, fill: look.theme.ink, bold: true });
        painter.push(margin, margin + 20, 1);
        drawScene(painter, net, layout, look, { x: 0, y: 0, width: layout.width, height: layout.height, scale: 1 });
        painter.pop();
      },
      rows: () => [
        ["from", "to", "shape"],
        ...net.regime.edges.map(([a, b, t]) => [a < 0 ? "input" : net.name(a), net.name(b), net.shapeOf(t).join("x")]),
      ],
    };
  }
}

export const keysHelp = (): HTMLElement => h("p", { id: "graph-keys", class: "unseen" }, KEYS);
