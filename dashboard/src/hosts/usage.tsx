// What a VM used, or all VMs of a host together, over time as its hypervisor measured it.
import { SegmentedControl, Text } from '@mantine/core';
import { useMemo, useState } from 'react';
import { graphql, type ResultOf } from '../live/graphql';
import { never, useLive } from '../live/use_live';
import { bytes, count, many } from '../ui/figures';
import { type Figure, Plots } from '../ui/plots';
import { Empty, Panel, Shown } from '../ui/shown';
import { type Stretch, stretches } from '../ui/stretches';
import { At } from '../ui/time';
import { MEASURED_EVERY_MS } from './query';

const HOST_USAGE = graphql(`
  query HostUsage($host: ID!, $since: DateTime) {
    hostUsage(id: $host, since: $since, points: 720) {
      at overMs reservedCpus reservedMemoryBytes vmsMeasured vmsRunning
      used {
        cpus memoryBytes diskReadBytesPerSecond diskWrittenBytesPerSecond
        networkReceivedBytesPerSecond networkSentBytesPerSecond
      }
    }
  }
`);

export type Used = ResultOf<typeof HOST_USAGE>['hostUsage'][number]['used'];
type Sample = Stretch & { used: Used };

/** Lines for what is above them: how much there could have been. */
type Most<Of> = { label: string; cpus: (sample: Of) => number; memory: (sample: Of) => number };

/** Why figures of such a host are nobody's measurement. */
const SIMULATED: [string, string][] = [
  ['simulated:', 'Simulated, not measured: its host has no guests, and counts as busy as its address says.'],
  ['test:', 'Simulated, not measured: libvirt’s test hypervisor has no guests, and makes its figures up.'],
];

/** Said wherever figures are shown that nobody measured. */
export function Simulated({ uri }: { uri: string }) {
  const why = SIMULATED.find(([scheme]) => uri.startsWith(scheme))?.[1];
  return why ? (
    <Text size="sm" c="dimmed" mb="xs">
      {why}
    </Text>
  ) : null;
}

function rounded(value: number): string {
  return bytes(Math.round(value));
}

export function UsageOverTime<Of extends Sample>({ samples, most }: { samples: readonly Of[]; most: Most<Of> }) {
  const figures = useMemo((): Figure[] => {
    const { times, values } = stretches(samples);
    const of = (label: string, color: string, name: keyof Used) => ({
      label,
      color,
      values: values(({ used }) => used[name]),
    });
    const all: Figure[] = [
      {
        title: 'CPU',
        times,
        format: (value) => value.toFixed(2),
        series: [of('used', '--busy', 'cpus'), { label: most.label, color: '--idle', values: values(most.cpus) }],
      },
      {
        title: 'Memory',
        times,
        format: rounded,
        series: [
          of('resident', '--busy', 'memoryBytes'),
          { label: most.label, color: '--idle', values: values(most.memory) },
        ],
      },
      {
        title: 'Disks, a second',
        times,
        format: rounded,
        series: [of('read', '--good', 'diskReadBytesPerSecond'), of('written', '--warn', 'diskWrittenBytesPerSecond')],
      },
      {
        title: 'Networks, a second',
        times,
        format: rounded,
        series: [of('in', '--good', 'networkReceivedBytesPerSecond'), of('out', '--warn', 'networkSentBytesPerSecond')],
      },
    ];
    return all.filter(({ series: [first] }) => first?.values.some((value) => value !== null));
  }, [samples, most]);
  const [first, last] = [samples[0], samples.at(-1)];
  if (!first || !last || figures.length === 0) return null;
  const from = (Date.parse(first.at) - first.overMs) / 1_000;
  const to = Math.max(Date.parse(last.at) / 1_000, from + 60);
  return <Plots figures={figures} from={from} to={to} />;
}

const RANGES = [
  { value: '3600', label: '1 h' },
  { value: '21600', label: '6 h' },
];

const RESERVED: Most<ResultOf<typeof HOST_USAGE>['hostUsage'][number]> = {
  label: 'promised',
  cpus: ({ reservedCpus }) => reservedCpus,
  memory: ({ reservedMemoryBytes }) => reservedMemoryBytes,
};

export function HostUsage({ host, uri }: { host: string; uri: string }) {
  const [range, setRange] = useState('3600');
  // Counted from when the range was chosen: what is newer is read with it, and what is older goes when it is chosen again.
  const since = useMemo(() => new Date(Date.now() - Number(range) * 1_000).toISOString(), [range]);
  const live = useLive(HOST_USAGE, { host, since }, { touches: never, everyMs: MEASURED_EVERY_MS });
  return (
    <Panel
      title="What its VMs used"
      live={live}
      right={<SegmentedControl size="xs" aria-label="Time range" value={range} onChange={setRange} data={RANGES} />}
    >
      <Shown live={live} rows={4}>
        {({ hostUsage }) => {
          const last = hostUsage.at(-1);
          const measured = hostUsage.some(({ used }) => used.cpus !== null || used.memoryBytes !== null);
          if (!last || !measured)
            return (
              <Empty title="Nothing was measured">
                Figures are there from when VMs run on it, as far as its hypervisor gives any; for six hours at most,
                and since the node that holds its connection was started.
              </Empty>
            );
          return (
            <>
              <Simulated uri={uri} />
              <Text size="sm" c="dimmed" mb="xs">
                {many(last.vmsRunning, 'VM')} {last.vmsRunning === 1 ? 'runs' : 'run'}
                {last.vmsMeasured < last.vmsRunning && `, of which ${count(last.vmsMeasured)} could be measured`}; the
                last look was at <At at={last.at} />. What the host itself uses is not in it.
              </Text>
              <UsageOverTime samples={hostUsage} most={RESERVED} />
            </>
          );
        }}
      </Shown>
    </Panel>
  );
}
