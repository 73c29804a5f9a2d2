// A table of any length: only the rows in sight are in the page, and further ones are fetched when one comes near the end.

import { html, useEffect, useLayoutEffect, useRef, useState } from '../vendor/preact-htm.js';
import { useKeys } from '../keyboard.js';

export const ROW_HEIGHT = 40; // px, as in styles.css
const MARGIN = 8; // rows beyond what is in sight
const NEAR_END = 30;

/**
 * @param {object} props
 * @param {{name: string, title: string, cell: (row: any) => any, wide?: boolean, className?: string}[]} props.columns
 *   wide: left out on narrow screens
 * @param {any[]} props.rows those fetched so far
 * @param {(row: any) => string} props.keyOf
 * @param {(row: any) => void} props.onOpen enter or a click on a row
 * @param {(row: any) => string} props.hrefOf address of a row, for the link in its first column's cell
 * @param {Set<string>} [props.selected] keys; with onSelect, rows have boxes
 * @param {(keys: Set<string>) => void} [props.onSelect]
 * @param {() => void} [props.onEnd] fetch more
 * @param {(keys: string[]) => void} [props.onSight] which rows are in sight
 * @param {string} props.label what the table holds, for screen readers
 * @param {string} [props.foot] words below the last row
 */
export function Table({ columns, rows, keyOf, onOpen, selected, onSelect, onEnd, onSight, label, foot }) {
  const box = useRef();
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(800);
  const [active, setActive] = useState(null);
  const last = useRef(null);

  useLayoutEffect(() => {
    const observer = new ResizeObserver(() => setHeight(box.current?.clientHeight ?? 800));
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);

  const first = Math.max(0, Math.floor(top / ROW_HEIGHT) - MARGIN);
  const end = Math.min(rows.length, Math.ceil((top + height) / ROW_HEIGHT) + MARGIN);
  const shown = rows.slice(first, end);
  useEffect(() => {
    if (onEnd && end > rows.length - NEAR_END) onEnd();
    if (onSight) onSight(shown.map(keyOf));
  }, [first, end, rows.length]);

  const move = (by) => (event) => {
    if (!rows.length) return;
    event.preventDefault();
    const at = rows.findIndex((row) => keyOf(row) === active);
    const next = Math.min(rows.length - 1, Math.max(0, at < 0 ? 0 : at + by));
    setActive(keyOf(rows[next]));
    const y = next * ROW_HEIGHT;
    const element = box.current;
    if (y < element.scrollTop) element.scrollTop = y;
    else if (y + 2 * ROW_HEIGHT > element.scrollTop + height - ROW_HEIGHT) element.scrollTop = y + 3 * ROW_HEIGHT - height;
  };
  const activeRow = () => rows.find((row) => keyOf(row) === active);
  useKeys({
    j: move(1), ArrowDown: move(1), k: move(-1), ArrowUp: move(-1),
    Enter: () => activeRow() && onOpen(activeRow()),
    x: () => onSelect && activeRow() && toggle(activeRow()),
  });

  const toggle = (row, range) => {
    const keys = new Set(selected);
    const key = keyOf(row);
    const from = range ? rows.findIndex((other) => keyOf(other) === last.current) : -1;
    const to = rows.indexOf(row);
    const wanted = !keys.has(key);
    const span = from < 0 ? [row] : rows.slice(Math.min(from, to), Math.max(from, to) + 1);
    for (const one of span) wanted ? keys.add(keyOf(one)) : keys.delete(keyOf(one));
    last.current = key;
    onSelect(keys);
  };
  const all = rows.length > 0 && onSelect && rows.every((row) => selected.has(keyOf(row)));

  return html`<div class="table-box" ref=${box} tabindex="0" role="region" aria-label=${label}
      onScroll=${(event) => setTop(event.currentTarget.scrollTop)}>
    <table aria-rowcount=${rows.length + 1}>
      <thead><tr>
        ${onSelect && html`<th class="select"><input type="checkbox" aria-label="Select all that are loaded" checked=${all}
          onChange=${() => onSelect(new Set(all ? [] : rows.map(keyOf)))} /></th>`}
        ${columns.map((column) => html`<th key=${column.name} scope="col" class=${classOf(column)}>${column.title}</th>`)}
      </tr></thead>
      <tbody>
        ${first > 0 && html`<${Space} key="before" rows=${first} />`}
        ${shown.map((row, index) => {
          const key = keyOf(row);
          return html`<tr key=${key} aria-rowindex=${first + index + 2} class=${key === active ? 'active' : ''}
              aria-selected=${onSelect ? selected.has(key) : undefined}
              onClick=${(event) => event.target.closest('a, button, input') || onOpen(row)}>
            ${onSelect && html`<td class="select"><input type="checkbox" checked=${selected.has(key)} aria-label="Select"
              onClick=${(event) => { event.preventDefault(); toggle(row, event.shiftKey); }} /></td>`}
            ${columns.map((column) => html`<td key=${column.name} class=${classOf(column)}>${column.cell(row)}</td>`)}
          </tr>`;
        })}
        ${end < rows.length && html`<${Space} key="after" rows=${rows.length - end} />`}
      </tbody>
    </table>
    ${foot && html`<p class="table-foot">${foot}</p>`}
  </div>`;
}

function classOf(column) {
  return [column.name, column.wide && 'wide-only', column.className].filter(Boolean).join(' ');
}

function Space({ rows }) {
  return html`<tr aria-hidden="true" class="space" style=${{ height: `${rows * ROW_HEIGHT}px` }}><td></td></tr>`;
}
