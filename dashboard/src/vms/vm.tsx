// One VM: what it shall be and what it is, what was asked of it, why it is on its host, what its hypervisor measured.
import { Button, Group, Skeleton, Text } from '@mantine/core';
import { getRouteApi } from '@tanstack/react-router';
import { Terminal } from 'lucide-react';
import { lazy, Suspense, useEffect, useRef, useState } from 'react';
import { EntityEvents } from '../events/of_entity';
import { MEASURED_EVERY_MS, touchesFleet } from '../hosts/query';
import { graphql, type ResultOf } from '../live/graphql';
import { useLive } from '../live/use_live';
import { EntityHead, EntityPage } from '../ui/entity';
import { bytes, many } from '../ui/figures';
import { KeyLink } from '../ui/key';
import { Empty, Panel } from '../ui/shown';
import { State, word } from '../ui/state';
import { Ago, At, Took } from '../ui/time';
import { VmActions } from './actions';
import { MigrateVm, Migration } from './migration';
import { Snapshots } from './snapshots';

const VM = graphql(`
  query Vm($id: ID!, $atLeast: Cursor) {
    node(id: $id, atLeast: $atLeast) {
      __typename
      ... on Vm {
        id name status wanted observed failure image cpus memoryBytes zone ha stopGraceMs createdAt startedAt
        networks sshKeys antiAffinity affinity
        lease { task attempt agent }
        pendingRestart { reason }
        backupSchedule { cron to keep nextAt }
        hostLabels { key value }
        disks { name sizeBytes }
        host { id name status nodeId }
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

type VmData = Extract<ResultOf<typeof VM>['node'], { __typename: 'Vm' }>;

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
  const apart = !AS_WANTED[vm.wanted]?.includes(vm.observed);
  return (
    <>
      <EntityHead title={vm.name} id={vm.id} live={live}>
        {(vm.status === 'RUNNING' || vm.status === 'PAUSED') && names.size > 1 && (
          <MigrateVm vm={vm} hosts={names} refresh={refresh} />
        )}
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
            {vm.lease && (
              <>
                <dt>Lives for</dt>
                <dd>
                  attempt {vm.lease.attempt} of <KeyLink id={vm.lease.task} />, by <KeyLink id={vm.lease.agent} />
                </dd>
              </>
            )}
            {vm.backupSchedule && (
              <>
                <dt>Backs itself up</dt>
                <dd>
                  <span className="mono">{vm.backupSchedule.cron}</span> to{' '}
                  <span className="mono">{vm.backupSchedule.to}</span>, keeps {vm.backupSchedule.keep}
                  {vm.backupSchedule.nextAt && (
                    <>
                      , next <At at={vm.backupSchedule.nextAt} />
                    </>
                  )}
                </dd>
              </>
            )}
            <dt>Image</dt>
            <dd>{vm.image}</dd>
            {vm.networks.length > 0 && (
              <>
                <dt>Networks</dt>
                <dd>{vm.networks.join(', ')}</dd>
              </>
            )}
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
          <Measured vm={vm} at={live.at} />
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

type Counters = NonNullable<VmData['usage']>;

/** What a counter grew by per second between the last two different answers; nothing if it began anew. */
function useRates(usage: Counters | null, at: number) {
  const looks = useRef<{ before?: { at: number; usage: Counters }; now?: { at: number; usage: Counters } }>({});
  const [, turn] = useState(0);
  useEffect(() => {
    const { now } = looks.current;
    if (!usage || at === 0 || (now && at - now.at < MEASURED_EVERY_MS - 500)) return;
    looks.current = { before: now, now: { at, usage } };
    turn((n) => n + 1);
  }, [usage, at]);
  const { before, now } = looks.current;
  return (name: keyof Counters): number | undefined => {
    const from = before?.usage[name];
    const to = now?.usage[name];
    if (from == null || to == null || !before || !now || to < from) return undefined;
    return ((to - from) / (now.at - before.at)) * 1_000;
  };
}

function Measured({ vm, at }: { vm: VmData; at: number }) {
  const { usage } = vm;
  const rate = useRates(usage, at);
  if (!usage || Object.values(usage).every((value) => value === null))
    return (
      <Empty title="Nothing was measured">
        {vm.observed === 'running'
          ? 'Its hypervisor gives no figures of it.'
          : 'Figures are there while its hypervisor runs it.'}
      </Empty>
    );
  const counters = [
    ['Disk read', 'diskReadBytes'],
    ['Disk written', 'diskWrittenBytes'],
    ['Network in', 'networkReceivedBytes'],
    ['Network out', 'networkSentBytes'],
  ] as const;
  const cpu = rate('cpuTimeNs');
  return (
    <dl className="facts num">
      <dt>CPU</dt>
      <dd>
        {cpu === undefined ? (
          <span className="dim">two looks are needed</span>
        ) : (
          `${(cpu / 1e9).toFixed(2)} of ${vm.cpus}`
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
      {counters.map(([label, name]) => {
        const total = usage[name];
        const per = rate(name);
        return [
          <dt key={label}>{label}</dt>,
          <dd key={name}>
            {total === null ? (
              <span className="dim">not measured</span>
            ) : (
              <>
                {bytes(total)}
                {per !== undefined && <span className="dim">, {bytes(Math.round(per))} a second</span>}
              </>
            )}
          </dd>,
        ];
      })}
    </dl>
  );
}

function Operations({ vm }: { vm: VmData }) {
  const newest = [...vm.operations].reverse();
  if (newest.length === 0) return <Empty title="Nothing was asked of it yet" />;
  return (
    <section className="scroll-x" tabIndex={0} aria-label="Operations">
      <table className="plain">
        <thead>
          <tr>
            <th>Status</th>
            <th>What</th>
            <th>Asked by</th>
            <th>When</th>
            <th>Took</th>
            <th>Error</th>
          </tr>
        </thead>
        <tbody>
          {newest.map((operation) => (
            <tr key={operation.number}>
              <td>
                <State status={operation.status} />
              </td>
              <td>
                {word(operation.kind)}
                {operation.snapshot && ` ${operation.snapshot}`}
              </td>
              <td>{operation.askedBy ?? <span className="dim">the cluster</span>}</td>
              <td style={{ whiteSpace: 'nowrap' }}>
                <At at={operation.startedAt} />
              </td>
              <td style={{ whiteSpace: 'nowrap' }}>
                <Took from={operation.startedAt} to={operation.endedAt} />
              </td>
              <td className="wrap" style={{ color: operation.status === 'FAILED' ? 'var(--bad)' : undefined }}>
                {operation.error}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function Placement({ vm, names }: { vm: VmData; names: Map<string, string> }) {
  const { placement } = vm;
  const asked = [
    ...vm.antiAffinity.map((group) => `apart from ${group}`),
    ...vm.affinity.map((group) => `with ${group}`),
    ...(vm.zone ? [`in zone ${vm.zone}`] : []),
    ...vm.hostLabels.map(({ key, value }) => `on ${key}=${value}`),
  ];
  const top = Math.max(...placement.scores.map(({ score }) => Math.abs(score)), 0);
  return (
    <>
      <Text size="sm" mb="xs">
        It was placed by <strong>{word(placement.strategy)}</strong>, out of {many(placement.eligible, 'eligible host')}
        {asked.length > 0 && `; it wants to be ${asked.join(', ')}`}.
      </Text>
      {placement.scores.length > 0 && (
        <section className="scroll-x" tabIndex={0} aria-label="Scores of hosts">
          <table className="plain">
            <thead>
              <tr>
                <th>Host</th>
                <th>Score</th>
                <th style={{ width: '55%' }} aria-label="Score as a bar" />
              </tr>
            </thead>
            <tbody>
              {placement.scores.map(({ host, score }, index) => (
                <tr key={host} style={index === 0 ? { fontWeight: 650 } : undefined}>
                  <td>
                    <KeyLink id={host} name={names.get(host)} />
                  </td>
                  <td className="num">
                    {score.toFixed(3)}
                    {index === 0 && ' (chosen)'}
                  </td>
                  <td aria-hidden>
                    <span className="bar">
                      <span style={{ width: `${top > 0 ? (Math.abs(score) / top) * 100 : 0}%` }} />
                    </span>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      )}
      {placement.leftOut.length > 0 && (
        <>
          <Text size="sm" fw={600} mt="sm">
            Left out
          </Text>
          <ul className="bare" style={{ fontSize: '0.88rem' }}>
            {placement.leftOut.map(({ hosts, reason }) => (
              <li key={reason}>
                <span className="num">{many(hosts, 'host')}</span>: {reason}
              </li>
            ))}
          </ul>
        </>
      )}
    </>
  );
}
