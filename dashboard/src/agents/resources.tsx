// What an agent's processes really use, over the last hour, as its node measured it.
import { Text } from '@mantine/core';
import { useMemo } from 'react';
import { graphql, type ResultOf } from '../live/graphql';
import { never, useLive } from '../live/use_live';
import { bytes, many } from '../ui/figures';
import { Plots } from '../ui/plots';
import { Empty, Shown } from '../ui/shown';
import { At } from '../ui/time';
import { cpuShares } from './cpu';

const RESOURCES = graphql(`
  query AgentResources($agent: ID!) {
    agentResources(id: $agent, points: 720) { at processes cpuSecondsTotal residentBytes }
  }
`);
/** The node takes a sample as often. */
const EVERY_MS = 5_000;

export function Resources({ agent }: { agent: string }) {
  const live = useLive(RESOURCES, { agent }, { touches: never, everyMs: EVERY_MS });
  return (
    <Shown live={live} rows={4}>
      {({ agentResources }) => <Drawn samples={agentResources} />}
    </Shown>
  );
}

function Drawn({ samples }: { samples: ResultOf<typeof RESOURCES>['agentResources'] }) {
  const drawn = useMemo(() => {
    const times = samples.map(({ at }) => Date.parse(at) / 1_000);
    return {
      times,
      memory: [
        { label: 'resident', color: '--busy', values: samples.map(({ residentBytes }) => Number(residentBytes)) },
      ],
      cpu: [{ label: 'CPUs', color: '--warn', values: cpuShares(samples) }],
    };
  }, [samples]);
  const [first, last] = [samples[0], samples.at(-1)];
  if (!first || !last)
    return (
      <Empty title="No process of it was measured">
        Its node looks every five seconds, since it was started and for an hour at most.
      </Empty>
    );
  const from = drawn.times[0] ?? 0;
  const to = Math.max(drawn.times.at(-1) ?? 0, from + 60);
  const cpus = drawn.cpu[0]?.values.at(-1);
  return (
    <>
      <Text size="sm" c="dimmed" mb="xs">
        {last.processes === 0 ? 'No process now' : many(last.processes, 'process', 'processes')}, measured{' '}
        <At at={last.at} />; {last.cpuSecondsTotal.toFixed(1)} s of CPU since <At at={first.at} withDate />.
      </Text>
      <Plots
        from={from}
        to={to}
        figures={[
          {
            title: 'Memory',
            times: drawn.times,
            series: drawn.memory,
            format: bytes,
            told: `${bytes(Number(last.residentBytes))} now`,
          },
          {
            title: 'CPU',
            times: drawn.times,
            series: drawn.cpu,
            format: (value) => value.toFixed(2),
            told: `${cpus === null || cpus === undefined ? 'not known' : cpus.toFixed(2)} CPUs at the last look`,
          },
        ]}
      />
    </>
  );
}
