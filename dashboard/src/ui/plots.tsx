// Figures over time, side by side. What draws the lines is loaded with the first screen that shows some.
import { Group, Skeleton, Text } from '@mantine/core';
import { lazy, type ReactNode, Suspense } from 'react';
import type { Series } from './plot';

export type { Series } from './plot';

export type Figure = {
  title: string;
  note?: ReactNode;
  /** Seconds since 1970. */
  times: number[];
  series: Series[];
  format: (value: number) => string;
  /** What it comes to, for who does not see it; the last values if absent. */
  told?: string;
};

const Plot = lazy(async () => ({ default: (await import('./plot')).Plot }));

/** What the last value of a line is. */
export function told({ values }: Series, format: (value: number) => string): string {
  const last = values.at(-1);
  return last === null || last === undefined ? 'not measured' : format(last);
}

export function Plots({ figures, from, to }: { figures: readonly Figure[]; from: number; to: number }) {
  return (
    <Suspense
      fallback={
        <div aria-busy="true">
          <Skeleton height={210} />
        </div>
      }
    >
      <div className="plots">
        {figures.map(({ title, note, times, series, format, told: words }) => (
          <div key={title}>
            <Group gap="xs">
              <Text size="sm" fw={600}>
                {title}
              </Text>
              {note && (
                <Text size="xs" c="dimmed">
                  {note}
                </Text>
              )}
            </Group>
            <Plot
              from={from}
              to={to}
              times={times}
              series={series}
              format={format}
              label={`${title}: ${words ?? series.map((each) => `${each.label} ${told(each, format)}`).join(', ')}`}
            />
          </div>
        ))}
      </div>
    </Suspense>
  );
}
