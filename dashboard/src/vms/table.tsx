// VMs in a table, those that need somebody first.
import { Group, MultiSelect } from '@mantine/core';
import { Link } from '@tanstack/react-router';
import { useMemo } from 'react';
import type { VmRow } from '../hosts/query';
import { bytes } from '../ui/figures';
import { KeyLink } from '../ui/key';
import { Empty } from '../ui/shown';
import { State, tone, word } from '../ui/state';
import { Ago } from '../ui/time';
import { type Column, VirtualTable } from '../ui/virtual_table';
import { isReady } from './warm';

export const VM_STATUSES = [
  'FAILED',
  'LOST',
  'STARTING',
  'STOPPING',
  'MIGRATING',
  'PAUSED',
  'RUNNING',
  'DEFINED',
  'STOPPED',
] as const;

const COLUMNS: Column<VmRow>[] = [
  { key: 'status', head: 'Status', width: '6.8rem', cell: (vm) => <State status={vm.status} /> },
  { key: 'name', head: 'Name', width: 'minmax(8rem, 2fr)', cell: (vm) => <KeyLink id={vm.id} name={vm.name} /> },
  {
    key: 'host',
    head: 'Host',
    width: 'minmax(7rem, 1.3fr)',
    cell: (vm) => (vm.host ? <KeyLink id={vm.host.id} name={vm.host.name} /> : <span className="dim">removed</span>),
  },
  { key: 'cpus', head: 'CPUs', width: '3.4rem', cell: (vm) => <span className="num">{vm.cpus}</span> },
  {
    key: 'memory',
    head: 'Memory',
    width: '5.6rem',
    cell: (vm) => <span className="num">{bytes(vm.memoryBytes)}</span>,
  },
  {
    key: 'used',
    head: 'In use',
    width: '5.6rem',
    cell: (vm) =>
      vm.usage?.memoryBytes == null ? (
        <span className="dim">–</span>
      ) : (
        <span className="num">{bytes(vm.usage.memoryBytes)}</span>
      ),
  },
  { key: 'image', head: 'Image', width: 'minmax(6rem, 1fr)', cell: (vm) => vm.image },
  { key: 'started', head: 'Runs since', width: '7rem', cell: (vm) => <Ago at={vm.startedAt} /> },
  {
    key: 'note',
    head: 'Now',
    width: 'minmax(8rem, 2fr)',
    cell: (vm) =>
      vm.operation?.status === 'RUNNING' ? (
        <span>{word(vm.operation.kind)} is under way</span>
      ) : vm.failure ? (
        <span style={{ color: 'var(--bad)' }} title={vm.failure}>
          {vm.failure}
        </span>
      ) : vm.warmFor ? (
        <span>
          {isReady(vm) ? 'waits ready for' : 'is made ready for'} <KeyLink id={vm.warmFor} />
        </span>
      ) : (
        vm.lease && (
          <span>
            lives for <KeyLink id={vm.lease.task} />
          </span>
        )
      ),
  },
];

export function VmTable({
  vms,
  loading,
  status,
  change,
  onHost = false,
}: {
  vms: readonly VmRow[];
  loading: boolean;
  status?: string[] | undefined;
  change?: (status: string[] | undefined) => void;
  onHost?: boolean;
}) {
  const sorted = useMemo(() => {
    const rank = new Map<string, number>(VM_STATUSES.map((each, index) => [each, index]));
    return [...vms].sort(
      (one, other) =>
        (rank.get(one.status) ?? 99) - (rank.get(other.status) ?? 99) || one.name.localeCompare(other.name),
    );
  }, [vms]);
  const counts = useMemo(() => {
    const counted = new Map<string, number>();
    for (const vm of vms) counted.set(vm.status, (counted.get(vm.status) ?? 0) + 1);
    return counted;
  }, [vms]);
  return (
    <>
      {change && (
        <Group gap="xs" px="0.9rem" pb="xs" justify="space-between">
          <MultiSelect
            size="xs"
            aria-label="Status"
            placeholder={status ? undefined : 'any status'}
            data={VM_STATUSES.map((value) => ({ value, label: word(value) }))}
            value={status ?? []}
            onChange={(next) => change(next.length > 0 ? next : undefined)}
            clearable
            w={{ base: '100%', xs: 240 }}
          />
          <Group gap={6}>
            {VM_STATUSES.filter((each) => counts.has(each)).map((each) => (
              <span key={each} className={`state tone-${tone(each)}`}>
                {counts.get(each)} {word(each)}
              </span>
            ))}
          </Group>
        </Group>
      )}
      {sorted.length === 0 ? (
        loading ? null : (
          <div style={{ padding: '0 0.9rem 0.9rem' }}>
            <Empty title={status ? 'No VM is like this' : onHost ? 'No VM is on it' : 'There are no VMs'}>
              Make one: <code>hiveward vm create NAME --image IMAGE</code>
              {onHost || status ? undefined : (
                <>
                  ; what was asked is in <Link to="/events">the events</Link>
                </>
              )}
            </Empty>
          </div>
        )
      ) : (
        <div style={{ display: 'flex', maxHeight: '32rem' }}>
          <VirtualTable
            label="VMs"
            rows={sorted}
            columns={onHost ? COLUMNS.filter(({ key }) => key !== 'host') : COLUMNS}
            minWidth={920}
          />
        </div>
      )}
    </>
  );
}
