// What a VM's hypervisor measured of it: now, and over the last hour.
import { useMemo } from 'react';
import { MEASURED_EVERY_MS } from '../hosts/query';
import { Simulated, UsageOverTime, type Used } from '../hosts/usage';
import { graphql, type ResultOf } from '../live/graphql';
import { type Live, never, useLive } from '../live/use_live';
import { bytes } from '../ui/figures';
import { Empty, Panel, Shown } from '../ui/shown';
import type { VmData } from './vm';

const VM_USAGE = graphql(`
  query VmUsage($vm: ID!) {
    vmUsage(id: $vm, points: 720) {
      at overMs
      used {
        cpus memoryBytes diskReadBytesPerSecond diskWrittenBytesPerSecond
        networkReceivedBytesPerSecond networkSentBytesPerSecond
      }
    }
  }
`);

export type VmUsage = Live<ResultOf<typeof VM_USAGE>>;

export function useVmUsage(vm: string): VmUsage {
  return useLive(VM_USAGE, { vm }, { touches: never, everyMs: MEASURED_EVERY_MS });
}

const COUNTERS = [
  ['Disk read', 'diskReadBytes', 'diskReadBytesPerSecond'],
  ['Disk written', 'diskWrittenBytes', 'diskWrittenBytesPerSecond'],
  ['Network in', 'networkReceivedBytes', 'networkReceivedBytesPerSecond'],
  ['Network out', 'networkSentBytes', 'networkSentBytesPerSecond'],
] as const;

/** How it stands: what was counted in all, and what it used on average since the look before the last one. */
export function Measured({ vm, live }: { vm: VmData; live: VmUsage }) {
  const { usage } = vm;
  if (!usage || Object.values(usage).every((value) => value === null))
    return (
      <Empty title="Nothing was measured">
        {vm.observed === 'running'
          ? 'Its hypervisor gives no figures of it.'
          : 'Figures are there while its hypervisor runs it.'}
      </Empty>
    );
  const last: Used | undefined = live.data?.vmUsage.at(-1)?.used;
  return (
    <>
      <Simulated uri={vm.host?.uri ?? ''} />
      <dl className="facts num">
        <dt>CPU</dt>
        <dd>
          {last?.cpus == null ? (
            <span className="dim">two looks are needed</span>
          ) : (
            `${last.cpus.toFixed(2)} of ${vm.cpus}`
          )}
          {usage.cpuTimeNs !== null && <span className="dim">, {(usage.cpuTimeNs / 1e9).toFixed(0)} s in all</span>}
        </dd>
        <dt>Memory</dt>
        <dd>
          {usage.memoryBytes === null ? (
            <span className="dim">not measured</span>
          ) : (
            `${bytes(usage.memoryBytes)} of ${bytes(vm.memoryBytes)}`
          )}
        </dd>
        {COUNTERS.map(([label, counter, rate]) => {
          const total = usage[counter];
          const per = last?.[rate];
          return [
            <dt key={label}>{label}</dt>,
            <dd key={counter}>
              {total === null ? (
                <span className="dim">not measured</span>
              ) : (
                <>
                  {bytes(total)}
                  {per != null && <span className="dim">, {bytes(Math.round(per))} a second</span>}
                </>
              )}
            </dd>,
          ];
        })}
      </dl>
    </>
  );
}

export function MeasuredOverTime({ vm, live }: { vm: VmData; live: VmUsage }) {
  const { cpus, memoryBytes } = vm;
  const most = useMemo(() => ({ label: 'it has', cpus: () => cpus, memory: () => memoryBytes }), [cpus, memoryBytes]);
  return (
    <Panel title="Used in the last hour" live={live}>
      <Shown live={live} rows={4}>
        {({ vmUsage }) =>
          vmUsage.some(({ used }) => used.cpus !== null) ? (
            <>
              <Simulated uri={vm.host?.uri ?? ''} />
              <UsageOverTime samples={vmUsage} most={most} />
            </>
          ) : (
            <Empty title="Nothing was measured yet">
              Two looks of its hypervisor are needed, a few seconds apart. What it used on another host, or before the
              node that holds its host was started, is not kept.
            </Empty>
          )
        }
      </Shown>
    </Panel>
  );
}
