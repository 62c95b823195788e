// What was measured, as plots with a time range: once a second while this page is open, from the node's own memory before.
// What was not measured is a gap.
import { SegmentedControl } from '@mantine/core';
import { useMemo, useState } from 'react';
import { useConnection } from '../live/connection';
import { graphql } from '../live/graphql';
import { never, useLive } from '../live/use_live';
import { bytes, short } from '../ui/figures';
import { Plot, type Series } from '../ui/plot';
import { told } from '../ui/plots';
import { Empty, PageHead, Panel } from '../ui/shown';
import { At } from '../ui/time';

import { rate, type Sample, useSamples } from './samples';

const RANGES = [
  { value: '60', label: '1 min' },
  { value: '300', label: '5 min' },
  { value: '900', label: '15 min' },
  { value: '3600', label: '1 h' },
  { value: '21600', label: '6 h' },
  { value: '86400', label: '24 h' },
];

const HISTORY = graphql(`
  query MetricsHistory($since: DateTime, $until: DateTime) {
    metricsHistory(since: $since, until: $until, points: 600) {
      at tasksRunning tasksQueued tasksEndedTotal agentsRunning eventsTotal cpuSecondsTotal residentBytes
    }
  }
`);

/** Samples of this page further apart than this have a gap between them; the node keeps one every five seconds. */
const GAP_MS = 4_000;
const KEPT_EVERY_MS = 5_000;
const KEPT_POINTS = 600;

/** With an empty sample in each gap, so that no line is drawn across what was not measured. */
export function gapped(samples: readonly Sample[], gapMs = GAP_MS): (Sample | number)[] {
  return samples.flatMap((sample, index) => {
    const before = samples[index - 1];
    const gap = before && Date.parse(sample.at) - Date.parse(before.at) > gapMs;
    return gap ? [Date.parse(before.at) / 1_000 + 1, sample] : [sample];
  });
}

export function Metrics() {
  const samples = useSamples();
  const { state } = useConnection();
  const [range, setRange] = useState('300');
  const { epoch } = useConnection();
  // Asked once for each range and connection: what is newer, the page measures itself.
  const since = useMemo(
    () => ({ range, epoch, at: new Date(Date.now() - Number(range) * 1_000).toISOString() }),
    [range, epoch],
  );
  const before = useLive(HISTORY, { since: since.at, until: null }, { touches: never });
  const shown = useMemo(() => {
    const last = samples.at(-1);
    if (!last) return [];
    const from = Date.parse(last.at) - Number(range) * 1_000;
    const first = samples[0]?.at ?? last.at;
    const kept = before.data?.metricsHistory.filter(({ at }) => at < first) ?? [];
    return [...kept, ...samples].filter(({ at }) => Date.parse(at) >= from);
  }, [samples, range, before.data]);
  const gapMs = Math.max(GAP_MS, KEPT_EVERY_MS * 2.5, ((Number(range) * 1_000) / KEPT_POINTS) * 2.5);
  const plots = useMemo(() => drawn(shown, gapMs), [shown, gapMs]);
  const first = shown[0];
  const last = samples.at(-1);
  const to = last ? Date.parse(last.at) / 1_000 : 0;
  return (
    <div className="page">
      <PageHead
        title="Metrics"
        note={
          first ? (
            <>
              Since <At at={first.at} />: once a second while this page is open, before that every five seconds, kept by
              the node for a day and until it restarts. For more, have Prometheus read <a href="/metrics">/metrics</a>.
            </>
          ) : undefined
        }
      >
        <SegmentedControl size="xs" aria-label="Time range" value={range} onChange={setRange} data={RANGES} />
      </PageHead>
      {shown.length < 2 ? (
        <div className="card">
          <Empty title="Nothing was measured yet">
            {state === 'live' ? 'The first figures come within two seconds.' : 'The node does not answer now.'}
          </Empty>
        </div>
      ) : (
        <div className="plots" data-stale={state !== 'live' ? 'true' : undefined}>
          {plots.map(({ title, series, times, format }) => (
            <Panel key={title} title={title}>
              <Plot
                from={to - Number(range)}
                to={to}
                times={times}
                series={series}
                format={format}
                label={`${title}: ${series.map((each) => `${each.label} ${told(each, format)}`).join(', ')}`}
              />
            </Panel>
          ))}
        </div>
      )}
    </div>
  );
}

type Drawn = { title: string; times: number[]; series: Series[]; format: (value: number) => string };

function drawn(samples: Sample[], gapMs: number): Drawn[] {
  const points = gapped(samples, gapMs);
  const times = points.map((point) => (typeof point === 'number' ? point : Date.parse(point.at) / 1_000));
  const index = new Map(samples.map((sample, at) => [sample, at]));
  const of = (label: string, color: string, value: (sample: Sample) => number | null): Series => ({
    label,
    color,
    values: points.map((point) => (typeof point === 'number' ? null : value(point))),
  });
  const rated = (field: 'tasksEndedTotal' | 'eventsTotal' | 'cpuSecondsTotal') => (sample: Sample) => {
    const at = index.get(sample) ?? 0;
    return rate(samples.slice(Math.max(0, at - 5), at + 1), field, 5) ?? null;
  };
  const figure = (value: number) =>
    value < 10 && !Number.isInteger(value) ? value.toFixed(1) : short(Math.round(value));
  return [
    {
      title: 'Tasks ended per second',
      times,
      format: figure,
      series: [of('ended', '--good', rated('tasksEndedTotal'))],
    },
    {
      title: 'Tasks waiting and running',
      times,
      format: figure,
      series: [
        of('waiting', '--warn', (sample) => sample.tasksQueued),
        of('running', '--busy', (sample) => sample.tasksRunning),
      ],
    },
    {
      title: 'Agents running',
      times,
      format: figure,
      series: [of('agents', '--busy', (sample) => sample.agentsRunning)],
    },
    { title: 'Events per second', times, format: figure, series: [of('events', '--good', rated('eventsTotal'))] },
    {
      title: 'CPU of this node’s process',
      times,
      format: (value) => `${Math.round(value * 100)} %`,
      series: [of('of one core', '--warn', rated('cpuSecondsTotal'))],
    },
    {
      title: 'Memory of this node’s process',
      times,
      format: bytes,
      series: [of('resident', '--busy', (sample) => sample.residentBytes)],
    },
  ];
}
