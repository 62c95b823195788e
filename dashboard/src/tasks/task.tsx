// One task: where it stands and why, its attempts, what it writes, what it was asked and what it returned.
import { Group, Tabs, Text } from '@mantine/core';
import { getRouteApi, Link } from '@tanstack/react-router';
import { OpenQuestions } from '../approvals/approvals';
import { EntityEvents } from '../events/of_entity';
import type { FeedEvent } from '../live/feed';
import { useLive } from '../live/use_live';
import { EntityHead, EntityPage } from '../ui/entity';
import { count, many, money } from '../ui/figures';
import { KeyLink } from '../ui/key';
import { Panel } from '../ui/shown';
import { State, word } from '../ui/state';
import { Ago, At, duration, Took } from '../ui/time';
import { TaskActions } from './actions';
import { Activity } from './activity';
import { DecisionTable } from './decision';
import { hasLinks, Links } from './links';
import { Output } from './output';
import { TASK, type TaskData } from './query';
import { Waterfall } from './waterfall';
import { Work } from './work';

const route = getRouteApi('/tasks/$task');

export function TaskPage() {
  const { task: id } = route.useParams();
  // Linked tasks change too: dependencies, subtasks.
  const live = useLive(
    TASK,
    { id },
    { touches: (event: FeedEvent) => event.task !== null || event.stream === id, paceMs: 600 },
  );
  return (
    <EntityPage live={live} type="Task" id={id} noun="task" all={{ to: '/tasks', label: 'All tasks' }}>
      {(task) => <Loaded task={task} refresh={live.refresh} live={live} />}
    </EntityPage>
  );
}

function Loaded({
  task,
  refresh,
  live,
}: {
  task: TaskData;
  refresh: () => void;
  live: { stale: boolean; at: number };
}) {
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const last = task.attempts.at(-1);
  const attempt = task.attempts.find(({ number }) => number === search.attempt) ?? last;
  const coding = attempt?.agent?.connector.coding !== null && attempt?.agent !== null && attempt !== undefined;
  const tabs = [
    ...(attempt ? [{ value: 'output', label: 'Output' }] : []),
    ...(coding ? [{ value: 'activity', label: 'Activity' }] : []),
    { value: 'work', label: 'Work and result' },
    ...(attempt ? [{ value: 'decision', label: 'Placement' }] : []),
    ...(hasLinks(task) ? [{ value: 'graph', label: 'Graph' }] : []),
    { value: 'events', label: 'Events' },
  ];
  const first = coding ? 'activity' : (tabs[0]?.value ?? 'work');
  const tab = tabs.some(({ value }) => value === search.tab) ? (search.tab ?? first) : first;
  return (
    <>
      <EntityHead title={task.title} id={task.id} live={live}>
        <TaskActions task={task} refresh={refresh} />
      </EntityHead>
      <OpenQuestions task={task.id} />
      <div className="two" data-stale={live.stale ? 'true' : undefined}>
        <Panel
          title={
            <Group gap="xs" component="span">
              <State status={task.status} />
              <Text size="sm" c="dimmed" component="span">
                {task.startedAt ? <Took from={task.startedAt} to={task.endedAt} /> : null}
              </Text>
            </Group>
          }
        >
          {task.error && (
            <Text className="wrap" style={{ color: 'var(--bad)', whiteSpace: 'pre-wrap' }} mb="xs" fw={550}>
              {task.error}
            </Text>
          )}
          <Text className="wrap" size="sm" component="div">
            <Why text={task.why} names={namesOf(task)} />
          </Text>
          {task.moves.map((move) => (
            <Text size="sm" c="dimmed" mt="xs" key={move.givenAt}>
              Moved from shard {move.fromShard} to {move.toShard}: {move.why}
            </Text>
          ))}
        </Panel>
        <Panel title="Facts">
          <Facts task={task} />
        </Panel>
      </div>
      {attempt && (
        <Panel title={`Attempts: ${task.attempts.length} of ${task.retry.maxAttempts} at most`} live={live}>
          <Waterfall
            task={task}
            chosen={attempt.number}
            choose={(number) => void navigate({ search: (before) => ({ ...before, attempt: number }), replace: true })}
          />
          <AttemptNote attempt={attempt} />
        </Panel>
      )}
      <section className="card">
        <Tabs
          value={tab}
          onChange={(value) =>
            void navigate({ search: (before) => ({ ...before, tab: value ?? undefined }), replace: true })
          }
          keepMounted={false}
        >
          <Tabs.List mb="sm">
            {tabs.map(({ value, label }) => (
              <Tabs.Tab key={value} value={value}>
                {label}
              </Tabs.Tab>
            ))}
          </Tabs.List>
          {attempt && (
            <Tabs.Panel value="output">
              <Output key={`${task.id}/${attempt.number}`} task={task.id} attempt={attempt.number} />
            </Tabs.Panel>
          )}
          {attempt && coding && (
            <Tabs.Panel value="activity">
              <Activity
                key={`${task.id}/${attempt.number}`}
                task={task.id}
                attempt={attempt.number}
                running={attempt.status === 'RUNNING'}
              />
            </Tabs.Panel>
          )}
          <Tabs.Panel value="work">
            <Work task={task} />
          </Tabs.Panel>
          {attempt && (
            <Tabs.Panel value="decision">
              <DecisionTable attempt={attempt} />
            </Tabs.Panel>
          )}
          <Tabs.Panel value="graph">
            <Links task={task} />
          </Tabs.Panel>
          <Tabs.Panel value="events">
            <EntityEvents filter={{ task: task.id }} />
          </Tabs.Panel>
        </Tabs>
      </section>
    </>
  );
}

/** Of whoever the reason may speak of. */
function namesOf(task: TaskData): Map<string, string> {
  return new Map([
    ...task.dependsOn.map(({ id, title }): [string, string] => [id, title]),
    ...task.attempts.flatMap(({ agent }): [string, string][] => (agent ? [[agent.id, agent.name]] : [])),
  ]);
}

/** Keys within a sentence become links. */
export function Why({ text, names }: { text: string; names: ReadonlyMap<string, string> }) {
  return text.split(/((?:task|agent|swarm|node)_[0-9a-f]{32})/).map((part, index) =>
    // biome-ignore lint/suspicious/noArrayIndexKey: the parts of one sentence
    index % 2 === 1 ? <KeyLink key={index} id={part} name={names.get(part)} /> : <span key={index}>{part}</span>,
  );
}

function AttemptNote({ attempt }: { attempt: TaskData['attempts'][number] }) {
  return (
    <Text size="sm" mt="xs" className="wrap" component="div">
      <span className="dim">Attempt {attempt.number}: </span>
      assigned <At at={attempt.assignedAt} />
      {attempt.startedAt && (
        <>
          , started <At at={attempt.startedAt} />
        </>
      )}
      {attempt.endedAt && (
        <>
          , ended <At at={attempt.endedAt} />
        </>
      )}
      {attempt.exitCode !== null && `, exit status ${attempt.exitCode}`}
      {attempt.signal !== null && `, ended by signal ${attempt.signal}`}
      {attempt.error && <span style={{ color: 'var(--bad)' }}>: {attempt.error}</span>}
      {attempt.retriable === false && <span className="dim"> (another attempt would not mend it)</span>}
      {attempt.usage.map((usage) => (
        <div key={usage.model} className="dim num">
          {usage.model}: {many(usage.calls, 'call')}, {count(usage.input)} tokens in, {count(usage.output)} out
          {usage.cacheRead > 0 && `, ${count(usage.cacheRead)} from cache`}
          {usage.money ? `, ${money(usage.money)}` : ', without a price'}
        </div>
      ))}
    </Text>
  );
}

function Facts({ task }: { task: TaskData }) {
  const limits = [
    task.queueTimeoutMs !== null && `${duration(task.queueTimeoutMs)} waiting`,
    task.runTimeoutMs !== null && `${duration(task.runTimeoutMs)} per attempt`,
    task.totalTimeoutMs !== null && `${duration(task.totalTimeoutMs)} in all`,
  ].filter(Boolean);
  return (
    <dl className="facts">
      <dt>Swarm</dt>
      <dd>
        {task.swarm ? <KeyLink id={task.swarm.id} name={task.swarm.name} /> : <span className="dim">removed</span>}
      </dd>
      <dt>Submitted</dt>
      <dd>
        <Ago at={task.createdAt} /> by {task.principal}
      </dd>
      <dt>Priority</dt>
      <dd>{word(task.priority)}</dd>
      {task.kind !== 'command' && (
        <>
          <dt>Kind</dt>
          <dd className="mono">{task.kind}</dd>
        </>
      )}
      {task.agent && (
        <>
          <dt>Only on</dt>
          <dd>
            <KeyLink id={task.agent.id} name={task.agent.name} />
          </dd>
        </>
      )}
      {task.skills.length > 0 && (
        <>
          <dt>Needs</dt>
          <dd>{task.skills.join(', ')}</dd>
        </>
      )}
      {task.notBefore && !task.endedAt && (
        <>
          <dt>Not before</dt>
          <dd>
            <At at={task.notBefore} />
          </dd>
        </>
      )}
      {limits.length > 0 && (
        <>
          <dt>At most</dt>
          <dd>{limits.join(', ')}</dd>
        </>
      )}
      {task.parent && (
        <>
          <dt>Part of</dt>
          <dd>
            <KeyLink id={task.parent.id} name={task.parent.title} />
            {task.nameInPlan && <span className="dim"> as {task.nameInPlan}</span>}
          </dd>
        </>
      )}
      {task.scatter && (
        <>
          <dt>Scatter</dt>
          <dd>
            {word(task.scatter.policy)}
            {task.scatter.atLeast !== null && `, ${task.scatter.atLeast} needed`}, {task.subtasks.length} parts
          </dd>
        </>
      )}
      {task.labels.length > 0 && (
        <>
          <dt>Labels</dt>
          <dd>
            {task.labels.map(({ key, value }) => (
              <Link
                key={key}
                to="/tasks"
                search={{ view: 'table', label: `${key}=${value}` }}
                className="mono"
                style={{ marginRight: 8 }}
              >
                {key}={value}
              </Link>
            ))}
          </dd>
        </>
      )}
    </dl>
  );
}
