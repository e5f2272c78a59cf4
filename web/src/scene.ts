// The graph as it is drawn, on the screen and into a file.

import { inkOn, mix, type Theme } from "./colour";
import type { Box, Layout, Line, Point } from "./layout";
import { type Item, isGroup, type Network } from "./network";
import { clipped, type Painter } from "./painter";
import * as units from "./units";

export interface Look {
  theme: Theme;
  colour(item: Item): string;
  value(item: Item): string; // the second line of a box
  mark(item: Item): string | undefined; // a border of its own: what changed
  selected: Item | undefined;
}

export interface Area {
  x: number;
  y: number;
  width: number;
  height: number;
  scale: number;
}

const overlaps = (a: { x: number; y: number; width: number; height: number }, b: Area): boolean =>
  a.x < b.x + b.width && a.x + a.width > b.x && a.y < b.y + b.height && a.y + a.height > b.y;

/** Draw what lies in the area. Small things lose their letters, then their lines. */
export function drawScene(painter: Painter, net: Network, layout: Layout, look: Look, area: Area): void {
  const seen = layout.boxes.filter((box) => overlaps(box, area));
  for (const box of seen) if (box.open) drawOpen(painter, net, box, look, area.scale);
  for (const line of layout.lines) drawLine(painter, net, line, look, area);
  for (const box of seen) if (!box.open) drawClosed(painter, net, box, look, area.scale);
}

function drawOpen(painter: Painter, net: Network, box: Box, look: Look, scale: number): void {
  const { theme } = look;
  const ground = mix(theme.paper, theme.ink, 0.035 * Math.min(box.depth + 1, 5));
  const border = look.selected === box.item ? theme.mark : (look.mark(box.item) ?? mix(theme.line, theme.ink, 0.25));
  const width = look.selected === box.item ? 2.5 : 1;
  painter.rect(box.x, box.y, box.width, box.height, { fill: ground, stroke: border, width }, 8);
  if (scale < 0.3) return;
  const text = clipped(`− ${net.label(box.item)}`, box.width - 80, 12);
  painter.text(text, box.x + 9, box.y + 16.5, { size: 12, fill: theme.ink, bold: true });
  const value = look.value(box.item);
  if (box.width > 140) painter.text(value, box.x + box.width - 9, box.y + 16.5, { size: 11, fill: theme.soft, anchor: "end" });
}

function drawClosed(painter: Painter, net: Network, box: Box, look: Look, scale: number): void {
  const { theme } = look;
  const fill = look.colour(box.item);
  const chosen = look.selected === box.item;
  const mark = look.mark(box.item);
  const border = chosen ? theme.mark : (mark ?? mix(fill, theme.ink, 0.35));
  const width = chosen ? 3 : mark ? 2.5 : 1;
  const group = isGroup(box.item);
  if (group && scale > 0.2) {
    for (const off of [6, 3]) {
      const behind = { fill: mix(fill, theme.paper, 0.35), stroke: mix(fill, theme.ink, 0.35), width: 0.8 };
      painter.rect(box.x + off, box.y + off, box.width - off, box.height, behind, 5);
    }
  }
  painter.rect(box.x, box.y, box.width - (group ? 6 : 0), box.height, { fill, stroke: border, width }, scale > 0.15 ? 5 : 0);
  if (scale < 0.32) return;
  const ink = inkOn(fill);
  const room = box.width - (group ? 34 : 16);
  const label = clipped(net.label(box.item), room, 12);
  painter.text(label, box.x + 8, box.y + 16, { size: 12, fill: ink, bold: group });
  if (scale > 0.5) painter.text(clipped(look.value(box.item), room, 10.5), box.x + 8, box.y + 31, { size: 10.5, fill: ink });
  if (group) painter.text("+", box.x + box.width - 14, box.y + 17, { size: 14, fill: ink, anchor: "end", bold: true });
}

function drawLine(painter: Painter, net: Network, line: Line, look: Look, area: Area): void {
  const bounds = extent(line.points);
  if (!overlaps(bounds, area)) return;
  const { theme } = look;
  const touched = look.selected !== undefined && (line.from === look.selected || line.to === look.selected);
  const stroke = touched ? theme.mark : mix(theme.paper, theme.ink, 0.42);
  painter.path(line.points, { stroke, width: touched ? 2 : 1.1 }, true);
  if (area.scale < 0.35) return;
  const end = line.points[line.points.length - 1];
  const before = line.points[line.points.length - 2];
  if (line.to !== "out") arrow(painter, before, end, stroke);
  for (const [port, place] of [
    [line.from, line.points[0]],
    [line.to, end],
  ] as const) {
    if (port === "in" || port === "out") painter.circle(place.x, place.y, 2.5, { fill: stroke });
  }
  if (area.scale < 0.7 || line.tensors.length !== 1 || line.from === "in") return;
  const text = units.shape(net.shapeOf(line.tensors[0]));
  const middle = line.points[Math.floor(line.points.length / 2)];
  painter.text(text, middle.x + 5, middle.y + 3, { size: 9.5, fill: touched ? theme.mark : theme.soft });
}

function arrow(painter: Painter, from: Point, to: Point, fill: string): void {
  const length = Math.hypot(to.x - from.x, to.y - from.y) || 1;
  const [x, y] = [(to.x - from.x) / length, (to.y - from.y) / length];
  const [left, right] = [1, -1].map((side) => ({ x: to.x - 7 * x - 3 * side * y, y: to.y - 7 * y + 3 * side * x }));
  painter.path([to, left, right], { fill }, false, true);
}

function extent(points: Point[]): { x: number; y: number; width: number; height: number } {
  let [left, right, top, bottom] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const p of points) {
    left = Math.min(left, p.x);
    right = Math.max(right, p.x);
    top = Math.min(top, p.y);
    bottom = Math.max(bottom, p.y);
  }
  return { x: left - 2, y: top - 2, width: right - left + 4, height: bottom - top + 4 };
}
