// Tasks as cards in columns by what is to be done about them; each column shows its newest.
import { Text, Title } from '@mantine/core';
import { Link } from '@tanstack/react-router';
import { useMemo } from 'react';
import type { TaskSearch } from '../app/router';
import { graphql, type ResultOf } from '../live/graphql';
import { useLive } from '../live/use_live';
import { count } from '../ui/figures';
import { Empty, Freshness, ProblemNote, Shown } from '../ui/shown';
import { State, word } from '../ui/state';
import { Ago, Took } from '../ui/time';
import { type TaskStatus, taskFilter, touchesTasks } from './filter';

const CARD = graphql(`
  fragment Card on Task { id title status priority createdAt startedAt endedAt error why swarm { id name } }
`);

const BOARD = graphql(
  `
  query Board($waiting: TaskFilter!, $running: TaskFilter!, $failed: TaskFilter!, $succeeded: TaskFilter!, $cancelled: TaskFilter!, $atLeast: Cursor) {
    waiting: tasks(first: 30, filter: $waiting, orderBy: PRIORITY_THEN_CREATED, atLeast: $atLeast) { nodes { ...Card } pageInfo { hasNextPage } }
    running: tasks(first: 30, filter: $running, orderBy: CREATED_DESC, atLeast: $atLeast) { nodes { ...Card } pageInfo { hasNextPage } }
    failed: tasks(first: 30, filter: $failed, orderBy: CREATED_DESC, atLeast: $atLeast) { nodes { ...Card } pageInfo { hasNextPage } }
    succeeded: tasks(first: 30, filter: $succeeded, orderBy: CREATED_DESC, atLeast: $atLeast) { nodes { ...Card } pageInfo { hasNextPage } }
    cancelled: tasks(first: 30, filter: $cancelled, orderBy: CREATED_DESC, atLeast: $atLeast) { nodes { ...Card } pageInfo { hasNextPage } }
    swarms(first: 100, atLeast: $atLeast) { nodes { id name taskCounts { status count } } pageInfo { hasNextPage } }
  }
`,
  [CARD],
);

type Task = ResultOf<typeof CARD>;
type Column = 'waiting' | 'running' | 'failed' | 'succeeded' | 'cancelled';

const COLUMNS: { column: Column; title: string; statuses: TaskStatus[]; empty: string }[] = [
  { column: 'waiting', title: 'Waiting', statuses: ['PENDING', 'QUEUED', 'RETRYING'], empty: 'Nothing waits.' },
  { column: 'running', title: 'Running', statuses: ['ASSIGNED', 'RUNNING', 'VERIFYING'], empty: 'Nothing runs now.' },
  { column: 'failed', title: 'Failed', statuses: ['FAILED', 'DEAD'], empty: 'Nothing has failed.' },
  { column: 'succeeded', title: 'Succeeded', statuses: ['SUCCEEDED'], empty: 'Nothing has succeeded yet.' },
  { column: 'cancelled', title: 'Cancelled', statuses: ['CANCELLED'], empty: 'Nothing was cancelled.' },
];

export function Board({ search }: { search: TaskSearch }) {
  const filter = useMemo(() => taskFilter(search), [search]);
  const of = (statuses: TaskStatus[]) => ({ ...filter, status: statuses });
  const live = useLive(
    BOARD,
    {
      waiting: of(['PENDING', 'QUEUED', 'RETRYING']),
      running: of(['ASSIGNED', 'RUNNING', 'VERIFYING']),
      failed: of(['FAILED', 'DEAD']),
      succeeded: of(['SUCCEEDED']),
      cancelled: of(['CANCELLED']),
    },
    { touches: touchesTasks, paceMs: 700 },
  );
  // Totals are known for a whole swarm only.
  const total = (statuses: TaskStatus[]): number | undefined => {
    if (!live.data || search.title || search.kind || search.label || search.agent || search.priority) return undefined;
    if (live.data.swarms.pageInfo.hasNextPage) return undefined;
    const swarms = live.data.swarms.nodes.filter(
      (swarm) => !search.swarm || search.swarm === swarm.name || search.swarm === swarm.id,
    );
    return swarms.reduce(
      (all, swarm) =>
        all + swarm.taskCounts.reduce((sum, each) => sum + (statuses.includes(each.status) ? each.count : 0), 0),
      0,
    );
  };
  if (live.data === undefined) {
    return (
      <div className="card">
        <Shown live={live} rows={8}>
          {() => null}
        </Shown>
      </div>
    );
  }
  const { data } = live;
  return (
    <>
      {live.problem && <ProblemNote problem={live.problem} retry={live.refresh} at={live.at} />}
      <div className="board" data-stale={live.stale ? 'true' : undefined}>
        {COLUMNS.map(({ column, title, statuses, empty }) => {
          const { nodes, pageInfo } = data[column];
          const many = total(statuses);
          return (
            <section key={column} className="board-column shown" aria-label={title}>
              <div className="board-head">
                <Title order={2} size="h3">
                  {title} {many !== undefined && <span className="dim num">{count(Math.max(many, nodes.length))}</span>}
                </Title>
                {column === 'waiting' && <Freshness live={live} />}
              </div>
              <ul className="bare board-cards" tabIndex={0} aria-label={`${title} tasks`}>
                {nodes.map((task) => (
                  <TaskCard key={task.id} task={task} />
                ))}
                {nodes.length === 0 && (
                  <li>
                    <Empty title={empty} />
                  </li>
                )}
                {pageInfo.hasNextPage && (
                  <li style={{ textAlign: 'center', padding: '0.4rem', fontSize: '0.85rem' }}>
                    <Link to="/tasks" search={{ ...search, view: 'table', status: statuses }}>
                      Show all
                    </Link>
                  </li>
                )}
              </ul>
            </section>
          );
        })}
      </div>
    </>
  );
}

function TaskCard({ task }: { task: Task }) {
  const reason = task.error ?? (task.startedAt ? null : task.why);
  return (
    <li className="board-card">
      <Link
        to="/tasks/$task"
        params={{ task: task.id }}
        className="wrap"
        style={{ color: 'inherit', fontWeight: 550, fontSize: '0.87rem' }}
      >
        <span className="two-lines">{task.title}</span>
      </Link>
      <div style={{ display: 'flex', gap: '0.5rem', alignItems: 'center', flexWrap: 'wrap', marginTop: 4 }}>
        <State status={task.status} />
        {task.priority !== 'NORMAL' && (
          <span className="dim" style={{ fontSize: '0.78rem' }}>
            {word(task.priority)}
          </span>
        )}
        <Text size="xs" c="dimmed" component="span" ml="auto">
          {task.startedAt && !task.endedAt ? (
            <Took from={task.startedAt} to={null} />
          ) : (
            <Ago at={task.endedAt ?? task.createdAt} />
          )}
        </Text>
      </div>
      {reason && (
        <div className="dim two-lines wrap" style={{ fontSize: '0.78rem', marginTop: 4 }}>
          {reason}
        </div>
      )}
    </li>
  );
}
