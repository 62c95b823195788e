// One VM: what it shall be and what it is, what was asked of it, why it is on its host, what its hypervisor measured.
import { Button, Group, Skeleton, Text } from '@mantine/core';
import { getRouteApi } from '@tanstack/react-router';
import { Terminal } from 'lucide-react';
import { lazy, Suspense } from 'react';
import { EntityEvents } from '../events/of_entity';
import { MEASURED_EVERY_MS, touchesFleet } from '../hosts/query';
import { graphql, type ResultOf } from '../live/graphql';
import { useLive } from '../live/use_live';
import { EntityHead, EntityPage } from '../ui/entity';
import { bytes, many } from '../ui/figures';
import { KeyLink } from '../ui/key';
import { Panel } from '../ui/shown';
import { State, word } from '../ui/state';
import { Ago, Took } from '../ui/time';
import { VmActions } from './actions';
import { VmBackups } from './backups';
import { CloneVm, MakeImage } from './copies';
import { Measured, MeasuredOverTime, useVmUsage } from './measured';
import { MigrateVm, Migration } from './migration';
import { VmNetworks } from './networks';
import { Size } from './size';
import { Snapshots } from './snapshots';
import { AgentName, isReady } from './warm';
import { Operations, Placement } from './why';

const VM = graphql(`
  query Vm($id: ID!, $atLeast: Cursor) {
    node(id: $id, atLeast: $atLeast) {
      __typename
      ... on Vm {
        id name status wanted observed failure image cpus memoryBytes zone ha stopGraceMs createdAt startedAt
        networks networkAddresses { network networkId address mac } sshKeys antiAffinity affinity
        lease { task attempt agent }
        warmFor
        pendingRestart { reason missing cpus memoryBytes }
        backupSchedule { cron to keep fullEvery nextAt lastAt askedBy }
        backups { path kind basis bytes fullBecause scheduled takenAt }
        operation { kind status startedAt askedBy }
        hostLabels { key value }
        disks { name sizeBytes }
        host { id name status nodeId uri }
        placement { strategy eligible scores { host score } leftOut { reason hosts } }
        snapshots { name takenAt withMemory }
        haStatus { state reason epoch comeBacks { at from to } }
        operations { number kind snapshot status askedBy startedAt endedAt error }
        migration { elapsedMs totalBytes remainingBytes sentBytesPerSecond dirtyBytesPerSecond iteration forecastMs isOutrun }
        guest { os kernel hostName addresses }
        usage { cpuTimeNs memoryBytes diskReadBytes diskWrittenBytes networkReceivedBytes networkSentBytes }
      }
    }
    hosts(first: 500) { nodes { id name } }
  }
`);

export type VmData = Extract<ResultOf<typeof VM>['node'], { __typename: 'Vm' }>;

const VmConsole = lazy(() => import('./console'));

const route = getRouteApi('/vms/$vm');

export function VmPage() {
  const { vm: id } = route.useParams();
  const live = useLive(
    VM,
    { id },
    { touches: (event) => event.stream === id || touchesFleet(event), everyMs: MEASURED_EVERY_MS },
  );
  return (
    <EntityPage live={live} type="Vm" id={id} noun="VM" all={{ to: '/hosts', label: 'All hosts and VMs' }}>
      {(vm, { hosts }) => (
        <Loaded
          key={vm.id}
          vm={vm}
          names={new Map(hosts.nodes.map((host) => [host.id, host.name]))}
          live={live}
          refresh={live.refresh}
        />
      )}
    </EntityPage>
  );
}

/** What it was when it is as it was wanted. */
const AS_WANTED: Record<string, string[]> = {
  RUNNING: ['running'],
  PAUSED: ['paused'],
  STOPPED: ['off', 'shut down', 'destroyed', 'absent'],
  ABSENT: ['absent'],
};

function Loaded({
  vm,
  names,
  live,
  refresh,
}: {
  vm: VmData;
  names: Map<string, string>;
  live: { stale: boolean; at: number };
  refresh: () => void;
}) {
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const used = useVmUsage(vm.id);
  const apart = !AS_WANTED[vm.wanted]?.includes(vm.observed);
  return (
    <>
      <EntityHead title={vm.name} id={vm.id} live={live}>
        {(vm.status === 'RUNNING' || vm.status === 'PAUSED') && names.size > 1 && (
          <MigrateVm vm={vm} hosts={names} refresh={refresh} />
        )}
        <CloneVm vm={vm} hosts={names} refresh={refresh} />
        <MakeImage vm={vm} refresh={refresh} />
        <VmActions vm={vm} refresh={refresh} />
      </EntityHead>
      <div className="two" data-stale={live.stale ? 'true' : undefined}>
        <Panel
          title={
            <Group gap="xs" component="span">
              <State status={vm.status} />
              {vm.startedAt && vm.status === 'RUNNING' && (
                <Text size="sm" c="dimmed" component="span">
                  for <Took from={vm.startedAt} to={null} />
                </Text>
              )}
            </Group>
          }
        >
          <dl className="facts">
            <dt>Wanted</dt>
            <dd>{vm.wanted === 'ABSENT' ? 'removed' : word(vm.wanted)}</dd>
            <dt>Observed</dt>
            <dd style={apart ? { color: 'var(--warn)', fontWeight: 600 } : undefined}>
              {vm.observed === 'absent' ? 'its hypervisor knows nothing of it' : vm.observed}
              {apart && vm.failure === null && ', not as it is wanted yet'}
            </dd>
            {vm.failure && (
              <>
                <dt>Failure</dt>
                <dd style={{ color: 'var(--bad)', whiteSpace: 'pre-wrap' }}>{vm.failure}</dd>
              </>
            )}
            <dt>Host</dt>
            <dd>
              {vm.host ? (
                <>
                  <KeyLink id={vm.host.id} name={vm.host.name} /> <State status={vm.host.status} />
                </>
              ) : (
                <span className="dim">removed</span>
              )}
            </dd>
            <dt>Size</dt>
            <dd className="num">
              {many(vm.cpus, 'CPU')}, {bytes(vm.memoryBytes)}
              {vm.disks.map((disk) => `, ${disk.name} ${bytes(disk.sizeBytes)}`)}
              {vm.pendingRestart && <div style={{ color: 'var(--warn)' }}>{vm.pendingRestart.reason}</div>}
            </dd>
            {vm.warmFor && (
              <>
                <dt>Waits for</dt>
                <dd>
                  the next attempt of <AgentName id={vm.warmFor} />,{' '}
                  {isReady(vm) ? 'booted ahead' : 'and is made ready'}; it lives for that alone
                </dd>
              </>
            )}
            {vm.lease && (
              <>
                <dt>Lives for</dt>
                <dd>
                  attempt {vm.lease.attempt} of <KeyLink id={vm.lease.task} />, by <KeyLink id={vm.lease.agent} />
                </dd>
              </>
            )}
            <dt>Image</dt>
            <dd>{vm.image}</dd>
            {vm.guest && (
              <>
                <dt>Guest</dt>
                <dd>
                  {[vm.guest.hostName, vm.guest.os, vm.guest.kernel].filter(Boolean).join(', ') || 'its agent answers'}
                  {vm.guest.addresses.length > 0 && <div className="mono">{vm.guest.addresses.join(' ')}</div>}
                </dd>
              </>
            )}
            <dt>When its host is lost</dt>
            <dd>
              <WhenLost vm={vm} names={names} />
            </dd>
            <dt>Created</dt>
            <dd>
              <Ago at={vm.createdAt} />
            </dd>
          </dl>
        </Panel>
        <Panel title="Measured">
          <Measured vm={vm} live={used} />
        </Panel>
      </div>
      {vm.status === 'MIGRATING' && <Migration vm={vm} progress={vm.migration} refresh={refresh} />}
      <Panel
        title="Console"
        right={
          <Button
            size="compact-sm"
            variant="default"
            leftSection={<Terminal size={14} />}
            onClick={() => void navigate({ search: { console: search.console ? undefined : true }, replace: true })}
          >
            {search.console ? 'Close' : 'Open'}
          </Button>
        }
      >
        {search.console ? (
          <Suspense fallback={<Skeleton height={360} />}>
            <VmConsole vm={vm.id} />
          </Suspense>
        ) : (
          <Text size="sm" c="dimmed">
            What its serial console says is recorded from its boot on; the last MiB is kept.
          </Text>
        )}
      </Panel>
      <MeasuredOverTime vm={vm} live={used} />
      <Size vm={vm} live={live} refresh={refresh} />
      <VmNetworks vm={vm} live={live} refresh={refresh} />
      <VmBackups vm={vm} hosts={names} live={live} refresh={refresh} />
      <Snapshots vm={vm} snapshots={vm.snapshots} live={live} refresh={refresh} />
      <Panel title="Operations" live={live}>
        <Operations vm={vm} />
      </Panel>
      <Panel title="Why it is on this host" live={live}>
        <Placement vm={vm} names={names} />
      </Panel>
      <Panel title="History" live={live}>
        <EntityEvents filter={{ stream: [vm.id] }} />
      </Panel>
    </>
  );
}

/** What becomes of it when its host is lost: who may be sure that it does not run any more decides. */
const HA: Record<string, string> = {
  OFF: 'it waits for its host',
  PROTECTED: 'it comes back on another by itself',
  BY_WORD: 'it comes back on another when somebody says that its host is off',
  FENCING: 'its host is lost, and is given the time to end it',
  WAITING: 'its host is off; it comes back as soon as another has room',
  NEEDS_WORD: 'its host may still run it: nothing is started elsewhere until somebody says that it is off',
};

function WhenLost({ vm, names }: { vm: VmData; names: Map<string, string> }) {
  const { state, reason, comeBacks } = vm.haStatus;
  const urgent = state === 'WAITING' || state === 'NEEDS_WORD' || state === 'FENCING';
  return (
    <>
      <span style={urgent ? { color: 'var(--warn)', fontWeight: 600 } : undefined}>{HA[state] ?? word(state)}</span>
      {reason && <div className="dim">{reason}</div>}
      {comeBacks.map(({ at, from, to }) => (
        <div key={at} className="dim">
          came back <Ago at={at} /> from <KeyLink id={from} name={names.get(from)} /> to{' '}
          <KeyLink id={to} name={names.get(to)} />
        </div>
      ))}
    </>
  );
}
