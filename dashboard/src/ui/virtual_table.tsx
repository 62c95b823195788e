// A table of any length: only rows in view are in the page. Reached by keyboard and read by screen readers as a table.
import { useVirtualizer } from '@tanstack/react-virtual';
import { type ReactNode, useEffect, useRef } from 'react';

export type Column<Row> = {
  key: string;
  head: ReactNode;
  /** A track of the grid, such as `minmax(0, 1fr)`. */
  width: string;
  cell: (row: Row) => ReactNode;
};

export function VirtualTable<Row extends { id: string }>({
  label,
  rows,
  columns,
  look,
  after,
  minWidth = 0,
}: {
  label: string;
  rows: Row[];
  columns: Column<Row>[];
  /** Told which rows are in view. */
  look?: (first: number, last: number) => void;
  after?: ReactNode;
  /** Narrower, it scrolls sideways. */
  minWidth?: number;
}) {
  const scroller = useRef<HTMLDivElement>(null);
  const virtual = useVirtualizer({
    count: rows.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => 40,
    overscan: 12,
    getItemKey: (index) => rows[index]?.id ?? index,
  });
  const items = virtual.getVirtualItems();
  const first = items[0]?.index ?? 0;
  const last = items.at(-1)?.index ?? 0;
  useEffect(() => look?.(first, last), [look, first, last]);
  const template = columns.map((column) => column.width).join(' ');
  return (
    <div
      ref={scroller}
      className="grid-table"
      tabIndex={0}
      role="region"
      aria-label={label}
      style={{ ['--table-min' as string]: `${minWidth}px` }}
    >
      <div role="table" aria-label={label} aria-rowcount={rows.length + 1}>
        <div role="rowgroup">
          <div role="row" className="grid-head" style={{ gridTemplateColumns: template }}>
            {columns.map((column) => (
              <div role="columnheader" key={column.key}>
                {column.head}
              </div>
            ))}
          </div>
        </div>
        <div role="rowgroup" style={{ height: virtual.getTotalSize(), position: 'relative' }}>
          {items.map((item) => {
            const row = rows[item.index];
            if (!row) return null;
            return (
              <div
                role="row"
                key={item.key}
                aria-rowindex={item.index + 2}
                className="grid-row"
                style={{
                  gridTemplateColumns: template,
                  position: 'absolute',
                  top: 0,
                  left: 0,
                  right: 0,
                  transform: `translateY(${item.start}px)`,
                }}
              >
                {columns.map((column) => (
                  <div role="cell" key={column.key}>
                    {column.cell(row)}
                  </div>
                ))}
              </div>
            );
          })}
        </div>
      </div>
      {after}
    </div>
  );
}
