// All backups in one place, a directory or a bucket, also those of VMs that are gone.
import { Button, Group, TextInput } from '@mantine/core';
import { getRouteApi, Link } from '@tanstack/react-router';
import { FolderSearch } from 'lucide-react';
import { useEffect, useMemo, useState } from 'react';
import { FLEET_PAGE, touchesFleet } from '../hosts/query';
import { graphql, type ResultOf } from '../live/graphql';
import { useAll } from '../live/use_all';
import { useLive } from '../live/use_live';
import { bytes, count, many } from '../ui/figures';
import { KeyLink } from '../ui/key';
import { Empty, PageHead, Panel, Shown } from '../ui/shown';
import { type BackupRow, BackupTable } from './table';

const STORED = graphql(`
  query StoredBackups($in: String!) {
    vmBackups(in: $in) {
      name path vm vmName takenAt kind basis bytes fullBecause damage drill { at passed failure }
    }
    hosts(first: 500) { nodes { id name } }
  }
`);
const SCHEDULES = graphql(`
  query BackupPlaces($first: Int, $after: String, $atLeast: Cursor) {
    vms(first: $first, after: $after, atLeast: $atLeast) {
      nodes { id name backupSchedule { to nextAt } }
      pageInfo { endCursor hasNextPage }
    }
  }
`);

const route = getRouteApi('/backups');

/** A place is looked through again at most so often, when VMs have changed. */
const PACE_MS = 5_000;
const ROWS_MAX = 200;

export function Backups() {
  const { in: place } = route.useSearch();
  const navigate = route.useNavigate();
  const [typed, setTyped] = useState(place ?? '');
  useEffect(() => setTyped(place ?? ''), [place]);
  const open = (next: string) => void navigate({ search: { in: next.trim() || undefined } });
  return (
    <div className="page">
      <PageHead
        title="Backups"
        note="Each backup has what it needs to be made a VM again beside it, so a place can be read whether or not its VMs are still there."
      />
      <div className="card">
        <form
          onSubmit={(event) => {
            event.preventDefault();
            open(typed);
          }}
        >
          <Group align="flex-end" gap="sm">
            <TextInput
              label="Place"
              description="A directory of the node that serves this page, an absolute path; or s3://BUCKET/PREFIX"
              value={typed}
              onChange={(event) => setTyped(event.currentTarget.value)}
              style={{ flex: '1 1 16rem' }}
            />
            <Button type="submit" variant="default" leftSection={<FolderSearch size={15} />} disabled={!typed.trim()}>
              Look
            </Button>
          </Group>
        </form>
        <Places open={place} />
      </div>
      {place && <Stored key={place} place={place} />}
    </div>
  );
}

/** Where VMs back themselves up to. */
function Places({ open }: { open: string | undefined }) {
  const vms = useAll(SCHEDULES, {}, (data) => data.vms, touchesFleet, { page: FLEET_PAGE });
  const places = useMemo(() => {
    const counted = new Map<string, number>();
    for (const { backupSchedule } of vms.rows)
      if (backupSchedule) counted.set(backupSchedule.to, (counted.get(backupSchedule.to) ?? 0) + 1);
    return [...counted].sort(([one], [other]) => one.localeCompare(other));
  }, [vms.rows]);
  if (vms.loading) return null;
  if (places.length === 0)
    return open ? null : (
      <Empty title="No VM backs itself up">
        Make a schedule on the page of a VM, or look into a place that you know of.
      </Empty>
    );
  return (
    <ul
      className="bare"
      style={{ marginTop: '0.8rem', fontSize: '0.9rem' }}
      aria-label="Where VMs back themselves up to"
    >
      {places.map(([to, number]) => (
        <li key={to}>
          <Link to="/backups" search={{ in: to }} className="mono">
            {to}
          </Link>{' '}
          <span className="dim">
            {many(number, 'VM')} back{number === 1 ? 's itself' : ' themselves'} up there
          </span>
        </li>
      ))}
    </ul>
  );
}

type StoredData = ResultOf<typeof STORED>;

function rowsOf({ vmBackups }: StoredData): BackupRow[] {
  const paths = new Map(vmBackups.map(({ name, path }) => [name, path]));
  return vmBackups.map((stored) => ({
    ...stored,
    // One that is not there is called by its name.
    basis: stored.basis === null ? null : (paths.get(stored.basis) ?? stored.basis),
    of: stored.vm ? <KeyLink id={stored.vm} name={stored.vmName} /> : <span className="dim">not known</span>,
  }));
}

function Stored({ place }: { place: string }) {
  const live = useLive(STORED, { in: place }, { touches: touchesFleet, paceMs: PACE_MS });
  return (
    <Panel title={<span className="wrap">In {place}</span>} live={live}>
      <Shown live={live} rows={4}>
        {(data) => <Found data={data} refresh={live.refresh} />}
      </Shown>
    </Panel>
  );
}

function Found({ data, refresh }: { data: StoredData; refresh: () => void }) {
  const [name, setName] = useState('');
  const rows = useMemo(() => rowsOf(data), [data]);
  const hosts = useMemo(() => new Map(data.hosts.nodes.map((host) => [host.id, host.name])), [data]);
  const found = rows.filter((row) => row.path.includes(name) || row.vmName?.includes(name));
  if (rows.length === 0)
    return (
      <Empty title="There are no backups">A directory with a manifest in it is one; nothing else is touched.</Empty>
    );
  const damaged = rows.filter(({ damage }) => damage).length;
  return (
    <>
      <Group justify="space-between" gap="sm" mb="xs">
        <span className="dim" style={{ fontSize: '0.88rem' }}>
          {many(rows.length, 'backup')}, {bytes(rows.reduce((all, row) => all + (row.bytes ?? 0), 0))} together
          {damaged > 0 && (
            <strong style={{ color: 'var(--bad)' }}>
              {' '}
              {damaged === 1 ? 'One is' : `${count(damaged)} are`} damaged.
            </strong>
          )}
        </span>
        {rows.length > 5 && (
          <TextInput
            size="xs"
            aria-label="Of the VM"
            placeholder="of the VM…"
            value={name}
            onChange={(event) => setName(event.currentTarget.value)}
          />
        )}
      </Group>
      <BackupTable rows={found.slice(0, ROWS_MAX)} ofWhat="Of" hosts={hosts} refresh={refresh} />
      {found.length > ROWS_MAX && <p className="dim">Only {count(ROWS_MAX)} of them are shown: name the VM above.</p>}
    </>
  );
}
