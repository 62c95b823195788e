// All hosts as a heat map, by what is promised of them or what is used, and the VMs on them.
import { Alert, Button, Group, NativeSelect, SegmentedControl, Text } from '@mantine/core';
import { useViewportSize } from '@mantine/hooks';
import { getRouteApi, Link } from '@tanstack/react-router';
import { Scale } from 'lucide-react';
import { useEffect, useMemo, useRef, useState } from 'react';
import type { HostSearch } from '../app/router';
import { useAll } from '../live/use_all';
import { bytes, count, many } from '../ui/figures';
import { Empty, Freshness, PageHead, Panel, ProblemNote, Shown } from '../ui/shown';
import { State } from '../ui/state';
import { Tile } from '../ui/tile';
import { VmTable } from '../vms/table';
import { isReady } from '../vms/warm';
import { RegisterHost } from './add';
import { type CpuTimes, cpusUsed, cpuTimes, HEAT, type HeatBy, percent, share, step } from './heat';
import { Images } from './images';
import { FLEET_PAGE, HOSTS, type HostRow, MEASURED_EVERY_MS, touchesFleet, VMS, type VmRow } from './query';

const route = getRouteApi('/hosts');

/** The looks before the last one and the last one, for what is a difference between two. */
export function useCpuTimes(vms: readonly VmRow[], at: number): (id: string) => number | undefined {
  const looks = useRef<{ before?: CpuTimes; now?: CpuTimes }>({});
  const [, turn] = useState(0);
  useEffect(() => {
    if (at === 0) return;
    const { now } = looks.current;
    // Looks that are too near to each other tell little: the hypervisor is asked every few seconds.
    if (now && at - now.at < MEASURED_EVERY_MS - 500) return;
    looks.current = { before: now, now: cpuTimes(vms, at) };
    turn((n) => n + 1);
  }, [vms, at]);
  const { before, now } = looks.current;
  return (id) => (now ? cpusUsed(id, before, now) : undefined);
}

export function Hosts() {
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const change = (next: Partial<HostSearch>) =>
    void navigate({ search: (before) => ({ ...before, ...next }), replace: true });
  const hosts = useAll(HOSTS, {}, (data) => data.hosts, touchesFleet, { page: FLEET_PAGE });
  const vms = useAll(VMS, {}, (data) => data.vms, touchesFleet, {
    everyMs: MEASURED_EVERY_MS,
    page: FLEET_PAGE,
  });
  const cpus = useCpuTimes(vms.rows, vms.at);
  const by = HEAT.find((each) => each.by === search.by)?.by ?? 'cpu';
  const shownVms = useMemo(
    () => vms.rows.filter(({ status }) => !search.status || search.status.includes(status)),
    [vms.rows, search.status],
  );
  const { width } = useViewportSize();
  const narrow = width > 0 && width < 768;
  const sums = useMemo(() => summed(hosts.rows), [hosts.rows]);
  return (
    <div className="page">
      <PageHead title="Hosts and VMs">
        <Freshness live={hosts} />
        {hosts.rows.length > 1 && (
          <Button
            component={Link}
            to="/rebalance"
            size="xs"
            variant="default"
            leftSection={<Scale size={14} />}
            style={{ textDecoration: 'none' }}
          >
            Rebalance
          </Button>
        )}
        <RegisterHost done={hosts.refresh} />
      </PageHead>
      {hosts.problem && <ProblemNote problem={hosts.problem} retry={hosts.refresh} at={hosts.at} />}
      {hosts.loading ? (
        <div className="card">
          <Shown live={{ ...hosts, data: undefined }} rows={5}>
            {() => null}
          </Shown>
        </div>
      ) : hosts.rows.length === 0 ? (
        hosts.problem === undefined && (
          <div className="card">
            <Empty title="There are no hosts">
              A host is a machine that runs VMs. Add one here, or with <code>hiveward host add qemu:///system</code>; to
              try it without a hypervisor, <code>hiveward host add simulated://one</code>.
            </Empty>
          </div>
        )
      ) : (
        <>
          <div className="tiles" data-stale={hosts.stale ? 'true' : undefined}>
            <Tile
              label="Hosts"
              value={count(hosts.rows.length)}
              note={sums.ill > 0 ? `${count(sums.ill)} cannot be used` : 'all can be used'}
            />
            <Tile
              label="VMs"
              value={vms.loading ? undefined : count(vms.rows.length)}
              note={vms.loading ? '' : runWords(vms.rows)}
            />
            <Tile
              label="CPUs promised"
              value={`${count(sums.cpus)} of ${count(Math.floor(sums.cpusMax))}`}
              note={`${count(sums.cores)} are there; the rest is overcommit`}
            />
            <Tile
              label="Memory promised"
              value={bytes(sums.memory)}
              note={`of ${bytes(sums.memoryMax)}; ${bytes(sums.memoryThere)} are there`}
            />
          </div>
          <Panel
            title="Hosts"
            live={hosts}
            right={
              narrow ? (
                <NativeSelect
                  size="xs"
                  aria-label="What the colours say"
                  value={by}
                  onChange={({ currentTarget: { value } }) => change({ by: value === 'cpu' ? undefined : value })}
                  data={HEAT.map((each) => ({ value: each.by, label: each.label }))}
                />
              ) : (
                <SegmentedControl
                  size="xs"
                  aria-label="What the colours say"
                  value={by}
                  onChange={(value) => change({ by: value === 'cpu' ? undefined : value })}
                  data={HEAT.map((each) => ({ value: each.by, label: each.label }))}
                />
              )
            }
          >
            <HeatMap hosts={hosts.rows} vms={vms.rows} by={by} cpus={cpus} />
          </Panel>
          {vms.problem && <ProblemNote problem={vms.problem} retry={vms.refresh} at={vms.at} />}
          {vms.cut && (
            <Alert color="yellow" variant="light">
              Only the first {count(vms.rows.length)} VMs are shown; the page of a host has all of its own.
            </Alert>
          )}
          <Panel title="VMs" live={vms} tight>
            <VmTable
              vms={shownVms}
              loading={vms.loading}
              status={search.status}
              change={(status) => change({ status })}
            />
          </Panel>
          <Images />
        </>
      )}
    </div>
  );
}

function runWords(vms: readonly VmRow[]): string {
  const run = `${count(vms.filter(({ status }) => status === 'RUNNING').length)} run`;
  const ready = vms.filter(isReady).length;
  return ready === 0 ? run : `${run}, ${count(ready)} of them wait for attempts`;
}

const USABLE = new Set(['UP', 'DRAINING', 'DRAINED']);

function summed(hosts: readonly HostRow[]) {
  const sums = { cpus: 0, cpusMax: 0, cores: 0, memory: 0, memoryMax: 0, memoryThere: 0, ill: 0 };
  for (const { reserved, capacity, status } of hosts) {
    if (!USABLE.has(status)) sums.ill += 1;
    sums.cpus += reserved.cpus;
    sums.memory += reserved.memoryBytes;
    sums.cpusMax += reserved.cpusMax;
    sums.memoryMax += reserved.memoryBytesMax;
    sums.cores += capacity?.cpus ?? 0;
    sums.memoryThere += capacity?.memoryBytes ?? 0;
  }
  return sums;
}

function HeatMap({
  hosts,
  vms,
  by,
  cpus,
}: {
  hosts: readonly HostRow[];
  vms: readonly VmRow[];
  by: HeatBy;
  cpus: (id: string) => number | undefined;
}) {
  const what = HEAT.find((each) => each.by === by);
  const sorted = useMemo(() => [...hosts].sort((one, other) => one.name.localeCompare(other.name)), [hosts]);
  return (
    <>
      <ul className="bare heat">
        {sorted.map((host) => {
          const value = share(by, host, vms, cpus);
          return (
            <li key={host.id}>
              <Link
                to="/hosts/$host"
                params={{ host: host.id }}
                className="heat-cell"
                data-heat={step(value)}
                title={`${host.name}: ${value === undefined ? 'not known' : `${percent(value)} ${what?.of}`}`}
              >
                <span className="heat-name clip">{host.name}</span>
                <span className="heat-value num">{value === undefined ? 'not known' : percent(value)}</span>
                <span className="heat-note clip num">
                  {host.capacity
                    ? `${many(host.capacity.cpus, 'CPU')}, ${bytes(host.capacity.memoryBytes)}`
                    : 'never reached'}
                </span>
                <span className="heat-note num">
                  {many(host.vmCount, 'VM')}
                  {host.cpuOvercommit !== 1 && `, ×${host.cpuOvercommit} CPU`}
                </span>
                {host.status !== 'UP' && <State status={host.status} />}
              </Link>
            </li>
          );
        })}
      </ul>
      <Group gap="md" mt="sm" justify="space-between">
        <Text size="xs" c="dimmed">
          {what?.label}: {what?.of}.
        </Text>
        <ul className="bare heat-legend" aria-label="What the colours mean">
          {(
            [
              ['0', 'none'],
              ['1', 'under half'],
              ['2', 'to 75 %'],
              ['3', 'to 90 %'],
              ['4', 'more'],
              ['none', 'not known'],
            ] as const
          ).map(([heat, label]) => (
            <li key={heat}>
              <span className="heat-swatch" data-heat={heat} aria-hidden /> {label}
            </li>
          ))}
        </ul>
      </Group>
    </>
  );
}
