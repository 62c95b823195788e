// One host: how full it is, what its VMs use, how a drain goes on.
import { Checkbox, Group, Text, TextInput } from '@mantine/core';
import { getRouteApi, useNavigate } from '@tanstack/react-router';
import { LogOut, PowerOff, Trash2, Undo2 } from 'lucide-react';
import { useState } from 'react';
import { EntityEvents } from '../events/of_entity';
import { graphql, type ResultOf } from '../live/graphql';
import { useAll } from '../live/use_all';
import { useLive } from '../live/use_live';
import { ActButton, ConfirmButton, useAct } from '../ui/act';
import { EntityHead, EntityPage } from '../ui/entity';
import { bytes, count, many } from '../ui/figures';
import { KeyLink } from '../ui/key';
import { Panel } from '../ui/shown';
import { State, word } from '../ui/state';
import { Ago } from '../ui/time';
import { VmTable } from '../vms/table';
import { HEAT, percent, share, step } from './heat';
import { useCpuTimes } from './hosts';
import { FLEET_PAGE, MEASURED_EVERY_MS, touchesFleet, VMS, type VmRow } from './query';
import { HostUsage } from './usage';

const HOST = graphql(`
  query Host($id: ID!, $atLeast: Cursor) {
    node(id: $id, atLeast: $atLeast) {
      __typename
      ... on Host {
        id name uri status why nodeId zone vmCount cpuOvercommit memoryOvercommit addedAt
        labels { key value }
        capacity { cpus memoryBytes version }
        reserved { cpus memoryBytes cpusMax memoryBytesMax }
        drainPlan { vm to whyStopped }
      }
    }
  }
`);
const DRAIN = graphql(`mutation DrainHost($input: DrainHostInput!) { drainHost(input: $input) { cursor } }`);
const CANCEL = graphql(
  `mutation CancelHostDrain($input: CancelHostDrainInput!) { cancelHostDrain(input: $input) { cursor } }`,
);
const DECLARE = graphql(
  `mutation DeclareHostLost($input: DeclareHostLostInput!) { declareHostLost(input: $input) { cursor } }`,
);
const REMOVE = graphql(`mutation RemoveHost($input: RemoveHostInput!) { removeHost(input: $input) { cursor } }`);

type HostData = Extract<ResultOf<typeof HOST>['node'], { __typename: 'Host' }>;

const route = getRouteApi('/hosts/$host');

export function HostPage() {
  const { host: id } = route.useParams();
  const live = useLive(HOST, { id }, { touches: touchesFleet });
  return (
    <EntityPage live={live} type="Host" id={id} noun="host" all={{ to: '/hosts', label: 'All hosts and VMs' }}>
      {(host) => <Loaded key={host.id} host={host} live={live} refresh={live.refresh} />}
    </EntityPage>
  );
}

/** A VM that has still to move, or to be stopped, before its host is empty. */
const STILL_THERE = new Set(['RUNNING', 'PAUSED', 'STOPPING', 'STARTING', 'MIGRATING']);

function Loaded({
  host,
  live,
  refresh,
}: {
  host: HostData;
  live: { stale: boolean; at: number };
  refresh: () => void;
}) {
  const vms = useAll(VMS, { filter: { host: host.id } }, (data) => data.vms, touchesFleet, {
    everyMs: MEASURED_EVERY_MS,
    page: FLEET_PAGE,
  });
  const cpus = useCpuTimes(vms.rows, vms.at);
  const left = vms.rows.filter(({ status }) => STILL_THERE.has(status)).length;
  return (
    <>
      <EntityHead title={host.name} id={host.id} live={live}>
        <HostActions host={host} left={left} refresh={refresh} />
      </EntityHead>
      {(host.status === 'DRAINING' || host.status === 'DRAINED') && (
        <DrainPlan host={host} vms={vms.rows} loading={vms.loading} left={left} />
      )}
      <div className="two" data-stale={live.stale ? 'true' : undefined}>
        <Panel title={<State status={host.status} />}>
          <dl className="facts">
            {host.why && (
              <>
                <dt>Why</dt>
                <dd style={{ color: 'var(--bad)' }}>{host.why}</dd>
              </>
            )}
            <dt>Hypervisor</dt>
            <dd>
              <span className="mono">{host.uri}</span>
              {host.capacity && <span className="dim">, {host.capacity.version}</span>}
            </dd>
            <dt>Connected by</dt>
            <dd>{host.nodeId ? <KeyLink id={host.nodeId} /> : <span className="dim">no node now</span>}</dd>
            <dt>It has</dt>
            <dd className="num">
              {host.capacity ? (
                `${many(host.capacity.cpus, 'CPU')}, ${bytes(host.capacity.memoryBytes)} of memory`
              ) : (
                <span className="dim">not known until it was reached</span>
              )}
            </dd>
            <dt>Overcommit</dt>
            <dd className="num">
              {many(host.cpuOvercommit, 'CPU')} promised for each, {many(host.memoryOvercommit, 'byte')} of memory
            </dd>
            {host.zone && (
              <>
                <dt>Zone</dt>
                <dd>{host.zone}</dd>
              </>
            )}
            {host.labels.length > 0 && (
              <>
                <dt>Labels</dt>
                <dd className="mono">{host.labels.map(({ key, value }) => `${key}=${value}`).join(' ')}</dd>
              </>
            )}
            <dt>Added</dt>
            <dd>
              <Ago at={host.addedAt} />
            </dd>
          </dl>
        </Panel>
        <Panel title="How full it is">
          <ul className="bare gauges">
            {HEAT.map(({ by, label, of }) => {
              const value = share(by, host, vms.rows, cpus);
              return (
                <li key={by}>
                  <Group justify="space-between" gap="xs">
                    <Text size="sm">{label}</Text>
                    <Text size="sm" fw={600} className="num" c={value === undefined ? 'dimmed' : undefined}>
                      {value === undefined ? 'not known' : percent(value)}
                    </Text>
                  </Group>
                  <div className="gauge" aria-hidden>
                    <span data-heat={step(value)} style={{ width: `${Math.min(1, value ?? 0) * 100}%` }} />
                  </div>
                  <Text size="xs" c="dimmed">
                    {of}
                  </Text>
                </li>
              );
            })}
          </ul>
        </Panel>
      </div>
      <Panel title={`VMs on it (${count(host.vmCount)})`} live={vms} tight>
        <VmTable vms={vms.rows} loading={vms.loading} onHost />
      </Panel>
      <HostUsage host={host.id} uri={host.uri} />
      <Panel title="History" live={live}>
        <EntityEvents filter={{ noun: ['roster'] }} about={host.id} />
      </Panel>
    </>
  );
}

function HostActions({ host, left, refresh }: { host: HostData; left: number; refresh: () => void }) {
  const navigate = useNavigate();
  const drain = useAct(DRAIN, refresh);
  const cancel = useAct(CANCEL, refresh);
  const remove = useAct(REMOVE, () => void navigate({ to: '/hosts' }));
  const declare = useAct(DECLARE, refresh);
  const [confirmed, setConfirmed] = useState('');
  const [force, setForce] = useState(false);
  const { id, name, status, vmCount } = host;
  const draining = status === 'DRAINING' || status === 'DRAINED';
  return (
    <>
      {(status === 'LOST' || status === 'UNREACHABLE') && vmCount > 0 && (
        <ConfirmButton
          act={declare}
          input={{ host: id, confirm: confirmed }}
          done={`${name} is taken for off.`}
          title={`Is ${name} surely off?`}
          consequence="On your word its VMs that are to come back are started on other hosts. If it still runs them, they run twice, and only a lock on their disks stands between the two. Your name is written down with it."
          confirm="It is off"
          leftSection={<PowerOff size={14} />}
          more={
            <TextInput
              label={`Its name, to say that you mean this one: ${name}`}
              value={confirmed}
              onChange={(event) => setConfirmed(event.currentTarget.value)}
              error={declare.problem?.field === 'confirm'}
            />
          }
        >
          It is off
        </ConfirmButton>
      )}
      {draining ? (
        <ActButton
          act={cancel}
          input={{ host: id }}
          done={`${name} takes VMs again.`}
          leftSection={<Undo2 size={14} />}
        >
          {status === 'DRAINING' ? 'Cancel the drain' : 'Take VMs again'}
        </ActButton>
      ) : (
        <ConfirmButton
          act={drain}
          input={{ host: id }}
          done={`${name} is being drained.`}
          title={`Drain ${name}?`}
          consequence={
            left === 0 ? 'It takes no more VMs until that is cancelled. None runs on it now.' : <Planned host={host} />
          }
          confirm="Drain"
          leftSection={<LogOut size={14} />}
        >
          Drain
        </ConfirmButton>
      )}
      <ConfirmButton
        act={remove}
        input={{ host: id, force }}
        done={`${name} is removed.`}
        title={`Remove ${name}?`}
        consequence={
          vmCount === 0
            ? 'The cluster forgets it. Nothing is changed on the machine itself.'
            : `The cluster forgets it. It has ${many(vmCount, 'VM')}: this is refused unless you say so below.`
        }
        confirm="Remove"
        leftSection={<Trash2 size={14} />}
        more={
          vmCount > 0 ? (
            <Checkbox
              label="Forget its VMs with it; what runs on its hypervisor is left alone"
              checked={force}
              onChange={(event) => setForce(event.currentTarget.checked)}
            />
          ) : undefined
        }
      >
        Remove
      </ConfirmButton>
    </>
  );
}

const PLANNED_SHOWN = 12;

/** What a drain would come to, for each VM. */
function Planned({ host }: { host: HostData }) {
  return (
    <>
      It takes no more VMs. Those that run on it move while they run, one after the other; one that fits nowhere is
      stopped, by its power button first, and stays on this host:
      <ul className="bare" style={{ marginTop: 6 }}>
        {host.drainPlan.slice(0, PLANNED_SHOWN).map(({ vm, to, whyStopped }) => (
          <li key={vm}>
            <strong>{vm}</strong> {to ? `moves to ${to}` : `is stopped: ${whyStopped ?? 'it fits nowhere'}`}
          </li>
        ))}
        {host.drainPlan.length > PLANNED_SHOWN && (
          <li className="dim">and {host.drainPlan.length - PLANNED_SHOWN} more</li>
        )}
      </ul>
    </>
  );
}

function DrainPlan({
  host,
  vms,
  loading,
  left,
}: {
  host: HostData;
  vms: readonly VmRow[];
  loading: boolean;
  left: number;
}) {
  const going = vms.filter(({ status }) => STILL_THERE.has(status));
  return (
    <Panel title={host.status === 'DRAINED' ? 'Drained' : 'Drain'}>
      <Text size="sm" mb={6}>
        {host.status === 'DRAINED'
          ? 'Nothing runs on it any more, and it takes nothing new.'
          : loading
            ? 'What runs on it moves, or is stopped.'
            : `${left === 1 ? 'One VM has' : `${count(left)} VMs have`} still to move, or to be stopped. It takes nothing new.`}
      </Text>
      {going.length > 0 && (
        <ul className="bare" style={{ fontSize: '0.88rem', marginTop: 6 }}>
          {going.slice(0, 8).map((vm) => (
            <li key={vm.id} style={{ display: 'flex', gap: 10, padding: '0.12rem 0' }}>
              <KeyLink id={vm.id} name={vm.name} />
              <State status={vm.status} />
              {vm.operation?.status === 'RUNNING' && (
                <span className="dim">
                  {word(vm.operation.kind)}, asked <Ago at={vm.operation.startedAt} />
                </span>
              )}
            </li>
          ))}
          {going.length > 8 && <li className="dim">and {going.length - 8} more</li>}
        </ul>
      )}
    </Panel>
  );
}
