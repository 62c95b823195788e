// Lines over time, drawn by uPlot; loaded with the screen that shows them.
import { useComputedColorScheme } from '@mantine/core';
import { useEffect, useRef } from 'react';
import UPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';

export type Series = { label: string; color: string; values: (number | null)[] };

export function Plot({
  times,
  from,
  to,
  series,
  format,
  label,
}: {
  /** Seconds since 1970. */
  times: number[];
  from: number;
  to: number;
  series: Series[];
  format: (value: number) => string;
  label: string;
}) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<UPlot>(undefined);
  const scheme = useComputedColorScheme();
  const latest = useRef({ times, from, to, series, format });
  latest.current = { times, from, to, series, format };
  const shape = series.map((each) => each.label + each.color).join();
  // biome-ignore lint/correctness/useExhaustiveDependencies: made again when its lines or colours are others
  useEffect(() => {
    const box = place.current;
    if (!box) return;
    const style = getComputedStyle(document.documentElement);
    const color = (name: string) => style.getPropertyValue(name).trim();
    const [line, text] = [color('--line'), color('--mantine-color-dimmed')];
    const made = new UPlot(
      {
        width: box.clientWidth,
        height: 190,
        legend: { live: true },
        cursor: { drag: { x: false, y: false } },
        scales: {
          x: { range: () => [latest.current.from, latest.current.to] },
          y: { range: (_, low, high) => [Math.min(0, low ?? 0), Math.max(1, (high ?? 1) * 1.1)] },
        },
        axes: [
          {
            stroke: text,
            grid: { stroke: line, width: 1 },
            ticks: { stroke: line },
            space: 90,
            values: (_, ticks) =>
              ticks.map((tick) => new Date(tick * 1_000).toLocaleTimeString(undefined, { hour12: false })),
          },
          {
            stroke: text,
            grid: { stroke: line, width: 1 },
            ticks: { stroke: line },
            size: 64,
            values: (_, ticks) => ticks.map((tick) => latest.current.format(tick)),
          },
        ],
        series: [
          {
            label: 'At',
            value: (_, at) =>
              at === null || at === undefined
                ? ''
                : new Date(at * 1_000).toLocaleTimeString(undefined, { hour12: false }),
          },
          ...latest.current.series.map((each) => ({
            label: each.label,
            stroke: color(each.color),
            width: 1.6,
            points: { show: false },
            value: (_: UPlot, value: number | null) =>
              value === null || value === undefined ? '–' : latest.current.format(value),
          })),
        ],
      },
      [latest.current.times, ...latest.current.series.map(({ values }) => values)] as UPlot.AlignedData,
      box,
    );
    plot.current = made;
    const resized = new ResizeObserver(() => made.setSize({ width: box.clientWidth, height: 190 }));
    resized.observe(box);
    return () => {
      resized.disconnect();
      made.destroy();
      plot.current = undefined;
    };
  }, [shape, scheme]);
  useEffect(() => {
    plot.current?.setData([times, ...series.map(({ values }) => values)] as UPlot.AlignedData);
  }, [times, series]);
  return <div ref={place} role="img" aria-label={label} />;
}
