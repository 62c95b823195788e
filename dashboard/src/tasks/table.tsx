// Tasks as a table of any length; pages are read as they come into view.
import { Button, Loader } from '@mantine/core';
import { ArrowDown, ArrowUp } from 'lucide-react';
import { useMemo } from 'react';
import type { TaskSearch } from '../app/router';
import { graphql, type ResultOf } from '../live/graphql';
import { usePages } from '../live/use_pages';
import { count } from '../ui/figures';
import { KeyLink } from '../ui/key';
import { Empty, ProblemNote } from '../ui/shown';
import { State, word } from '../ui/state';
import { Ago, Took } from '../ui/time';
import { type Column, VirtualTable } from '../ui/virtual_table';
import { taskFilter, touchesTasks } from './filter';

const TASKS = graphql(`
  query TaskPageRows($filter: TaskFilter, $orderBy: TaskOrder, $first: Int, $after: String, $atLeast: Cursor) {
    tasks(filter: $filter, orderBy: $orderBy, first: $first, after: $after, atLeast: $atLeast) {
      nodes { id title kind status priority createdAt startedAt endedAt error swarm { id name } }
      pageInfo { endCursor hasNextPage }
    }
  }
`);

type Row = ResultOf<typeof TASKS>['tasks']['nodes'][number];

const columns = (search: TaskSearch, change: (next: Partial<TaskSearch>) => void): Column<Row>[] => [
  { key: 'status', head: 'Status', width: '6.6rem', cell: (task) => <State status={task.status} /> },
  {
    key: 'title',
    head: 'Title',
    width: 'minmax(12rem, 3fr)',
    cell: (task) => <KeyLink id={task.id} name={task.title} />,
  },
  { key: 'kind', head: 'Kind', width: '6rem', cell: (task) => <span className="dim">{task.kind}</span> },
  {
    key: 'swarm',
    head: 'Swarm',
    width: 'minmax(5rem, 0.8fr)',
    cell: (task) => task.swarm && <KeyLink id={task.swarm.id} name={task.swarm.name} />,
  },
  {
    key: 'priority',
    head: 'Priority',
    width: '4.6rem',
    cell: (task) => (task.priority === 'NORMAL' ? <span className="dim">normal</span> : word(task.priority)),
  },
  {
    key: 'created',
    head: (
      <Button
        size="compact-xs"
        variant="transparent"
        c="dimmed"
        p={0}
        rightSection={search.oldest ? <ArrowUp size={13} /> : <ArrowDown size={13} />}
        onClick={() => change({ oldest: search.oldest ? undefined : true })}
        aria-label={search.oldest ? 'Created, oldest first' : 'Created, newest first'}
      >
        Created
      </Button>
    ),
    width: '6rem',
    cell: (task) => <Ago at={task.createdAt} />,
  },
  {
    key: 'took',
    head: 'Took',
    width: '5.5rem',
    cell: (task) => <Took from={task.startedAt} to={task.startedAt ? task.endedAt : null} />,
  },
  {
    key: 'error',
    head: 'Error',
    width: 'minmax(8rem, 2fr)',
    cell: (task) => (
      <span className="dim" title={task.error ?? undefined}>
        {task.error}
      </span>
    ),
  },
];

export function TaskTable({ search, change }: { search: TaskSearch; change: (next: Partial<TaskSearch>) => void }) {
  const filter = useMemo(() => taskFilter(search), [search]);
  const pages = usePages(
    TASKS,
    { filter, orderBy: search.oldest ? 'CREATED_ASC' : 'CREATED_DESC' },
    (data) => data.tasks,
    touchesTasks,
  );
  const shown = columns(search, change);
  return (
    <section
      className="card card-tight"
      style={{ flex: 1, minHeight: 0, display: 'flex', flexDirection: 'column' }}
      data-stale={pages.stale ? 'true' : undefined}
    >
      {pages.problem && (
        <div style={{ padding: '0.6rem' }}>
          <ProblemNote problem={pages.problem} retry={pages.refresh} />
        </div>
      )}
      <VirtualTable
        label="Tasks"
        rows={pages.rows}
        columns={shown}
        look={pages.look}
        minWidth={880}
        after={
          pages.loading ? (
            <div style={{ padding: '1rem', textAlign: 'center' }}>
              <Loader size="sm" aria-label="Loading" />
            </div>
          ) : pages.rows.length === 0 && !pages.problem ? (
            <Empty title="No task is like this">
              Clear the filters, or submit one: <code>hiveward task submit -- echo hello</code>
            </Empty>
          ) : null
        }
      />
      <div
        className="dim num"
        style={{ padding: '0.35rem 0.9rem', borderTop: '1px solid var(--line)', fontSize: '0.8rem' }}
      >
        {count(pages.rows.length)}
        {pages.hasMore ? ' read so far; more as you scroll' : ' in all'}
      </div>
    </section>
  );
}
