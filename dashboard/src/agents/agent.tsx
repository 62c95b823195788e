// One agent: what it does now, its terminal or activity, what it asks, what it used, how it is set up.
import { Group, Skeleton, Tabs, Text } from '@mantine/core';
import { getRouteApi, Link } from '@tanstack/react-router';
import { lazy, Suspense } from 'react';
import { OpenQuestions } from '../approvals/approvals';
import { EntityEvents } from '../events/of_entity';
import type { FeedEvent } from '../live/feed';
import { graphql, type ResultOf } from '../live/graphql';
import { useLive } from '../live/use_live';
import { Activity } from '../tasks/activity';
import { Output } from '../tasks/output';
import { commandLine } from '../tasks/work';
import { EntityHead, EntityPage } from '../ui/entity';
import { bytes, count, many, money } from '../ui/figures';
import { TextBlock } from '../ui/json';
import { KeyLink } from '../ui/key';
import { Empty, Panel } from '../ui/shown';
import { State, word } from '../ui/state';
import { Ago, duration, Took } from '../ui/time';
import { WarmVms } from '../vms/warm';
import { AgentActions } from './actions';
import { Resources } from './resources';
import { UsageOverTime } from './usage';

const Terminal = lazy(() => import('./terminal'));

const AGENT = graphql(`
  query Agent($id: ID!, $atLeast: Cursor) {
    node(id: $id, atLeast: $atLeast) {
      __typename
      ... on Agent {
        id name status createdAt startedAt incarnation running succeeded failed lastFailure weight autoStart
        maxConcurrentTasks startTimeoutMs stopGraceMs
        swarm { id name }
        session { kind cols rows vm { image cpus memoryBytes warm } }
        skills { name proficiency }
        env { name value }
        limits { cpuMillis memoryBytes maxProcesses maxOutputBytes wallMs }
        connector {
          kind argv cwd model
          coding {
            model provider fallback workspace instructions checks answer maxResumes maxTokens quietMs withinMs otherwise
            rules { tool path command decision }
          }
        }
        usage { calls input output cacheRead cacheWrite incomplete money { amount currency } }
        current: tasks(first: 10, filter: { status: [ASSIGNED, RUNNING, VERIFYING] }, orderBy: CREATED_DESC) {
          nodes { id title status startedAt attempts { number agentId status } }
        }
        recent: tasks(first: 25, orderBy: CREATED_DESC) { nodes { id title status createdAt startedAt endedAt error } }
      }
    }
  }
`);

export type AgentData = Extract<ResultOf<typeof AGENT>['node'], { __typename: 'Agent' }>;

const route = getRouteApi('/agents/$agent');

export function AgentPage() {
  const { agent: id } = route.useParams();
  const live = useLive(
    AGENT,
    { id },
    {
      touches: (event: FeedEvent) => event.agent === id || event.stream === id || event.kind === 'ModelUsed',
      paceMs: 600,
    },
  );
  return (
    <EntityPage live={live} type="Agent" id={id} noun="agent" all={{ to: '/agents', label: 'All agents' }}>
      {(agent) => <Loaded agent={agent} live={live} refresh={live.refresh} />}
    </EntityPage>
  );
}

function Loaded({
  agent,
  live,
  refresh,
}: {
  agent: AgentData;
  live: { stale: boolean; at: number };
  refresh: () => void;
}) {
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const current = agent.current.nodes[0];
  const pty = agent.session.kind === 'PTY';
  const coding = agent.connector.coding !== null;
  const tabs = [
    ...(pty ? [{ value: 'terminal', label: 'Terminal' }] : []),
    ...(coding ? [{ value: 'activity', label: 'Activity' }] : []),
    ...(!pty && !coding ? [{ value: 'output', label: 'Output' }] : []),
    { value: 'tasks', label: 'Tasks' },
    { value: 'resources', label: 'Resources' },
    ...(agent.usage ? [{ value: 'usage', label: 'Usage' }] : []),
    { value: 'settings', label: 'Settings' },
    { value: 'history', label: 'History' },
  ];
  const first = current ? (tabs[0]?.value ?? 'tasks') : 'tasks';
  const tab = tabs.some(({ value }) => value === search.tab) ? (search.tab ?? first) : first;
  return (
    <>
      <EntityHead title={agent.name} id={agent.id} live={live}>
        <AgentActions agent={agent} refresh={refresh} />
      </EntityHead>
      <OpenQuestions agent={agent.id} />
      <div className="two" data-stale={live.stale ? 'true' : undefined}>
        <Panel
          title={
            <Group gap="xs" component="span">
              <State status={agent.status} />
              {agent.startedAt && (
                <Text size="sm" c="dimmed" component="span">
                  for <Took from={agent.startedAt} to={null} />
                </Text>
              )}
            </Group>
          }
        >
          <dl className="facts">
            <dt>Swarm</dt>
            <dd>
              {agent.swarm ? (
                <KeyLink id={agent.swarm.id} name={agent.swarm.name} />
              ) : (
                <span className="dim">removed</span>
              )}
            </dd>
            <dt>Drives</dt>
            <dd>
              {agent.connector.kind}
              {agent.connector.coding?.model && `, ${agent.connector.coding.model}`}
              {agent.connector.model && `, ${agent.connector.model}`}
            </dd>
            <dt>Now</dt>
            <dd>
              {agent.current.nodes.length === 0 ? (
                <span className="dim">nothing</span>
              ) : (
                agent.current.nodes.map((task, index) => (
                  <span key={task.id}>
                    {index > 0 && ', '}
                    <KeyLink id={task.id} name={task.title} />
                  </span>
                ))
              )}{' '}
              <span className="dim num">
                ({agent.running} of {agent.maxConcurrentTasks})
              </span>
            </dd>
            {agent.session.vm !== null && agent.session.vm.warm > 0 && (
              <WarmVms agent={agent.id} wanted={agent.session.vm.warm} />
            )}
            <dt>So far</dt>
            <dd className="num">
              {count(agent.succeeded)} succeeded, {count(agent.failed)} failed
            </dd>
            {agent.lastFailure && (
              <>
                <dt>Last failure</dt>
                <dd style={{ color: 'var(--bad)', whiteSpace: 'pre-wrap' }}>{agent.lastFailure}</dd>
              </>
            )}
          </dl>
        </Panel>
        <Panel title="Models">
          {agent.usage ? (
            <dl className="facts num">
              <dt>Cost</dt>
              <dd>
                {agent.usage.money ? money(agent.usage.money) : <span className="dim">some calls have no price</span>}
              </dd>
              <dt>Calls</dt>
              <dd>
                {count(agent.usage.calls)}
                {agent.usage.incomplete > 0 && (
                  <span className="dim"> ({count(agent.usage.incomplete)} cut short)</span>
                )}
              </dd>
              <dt>Tokens in</dt>
              <dd>
                {count(agent.usage.input)}
                <span className="dim">
                  , cache {count(agent.usage.cacheRead)} read, {count(agent.usage.cacheWrite)} written
                </span>
              </dd>
              <dt>Tokens out</dt>
              <dd>{count(agent.usage.output)}</dd>
            </dl>
          ) : (
            <Empty title="It has called no models" />
          )}
        </Panel>
      </div>
      <section className="card">
        <Tabs
          value={tab}
          onChange={(value) => void navigate({ search: { tab: value ?? undefined }, replace: true })}
          keepMounted={false}
        >
          <Tabs.List mb="sm">
            {tabs.map(({ value, label }) => (
              <Tabs.Tab key={value} value={value}>
                {label}
              </Tabs.Tab>
            ))}
          </Tabs.List>
          <Tabs.Panel value="terminal">
            {current ? (
              <Suspense fallback={<Skeleton height={360} />}>
                <Terminal agent={agent.id} task={current.id} />
              </Suspense>
            ) : (
              <Empty title="It has no terminal now">
                A process of its own, with a terminal, is there while it runs a task.
              </Empty>
            )}
          </Tabs.Panel>
          <Tabs.Panel value="activity">
            <OfTask agent={agent} what="activity" />
          </Tabs.Panel>
          <Tabs.Panel value="output">
            <OfTask agent={agent} what="output" />
          </Tabs.Panel>
          <Tabs.Panel value="tasks">
            <Recent agent={agent} />
          </Tabs.Panel>
          <Tabs.Panel value="resources">
            <Resources agent={agent.id} />
          </Tabs.Panel>
          <Tabs.Panel value="usage">
            <UsageOverTime agent={agent.id} />
          </Tabs.Panel>
          <Tabs.Panel value="settings">
            <Settings agent={agent} />
          </Tabs.Panel>
          <Tabs.Panel value="history">
            <EntityEvents filter={{ stream: [agent.id] }} />
          </Tabs.Panel>
        </Tabs>
      </section>
    </>
  );
}

/** Of what it runs now, or ran last. */
function OfTask({ agent, what }: { agent: AgentData; what: 'activity' | 'output' }) {
  const task = agent.current.nodes[0];
  const last = agent.recent.nodes[0];
  if (task) {
    const attempt = task.attempts.findLast(({ agentId }) => agentId === agent.id);
    if (attempt) {
      return (
        <>
          <Text size="sm" mb="xs" component="div">
            <KeyLink id={task.id} name={task.title} />, attempt {attempt.number}
          </Text>
          {what === 'activity' ? (
            <Activity
              key={`${task.id}/${attempt.number}`}
              task={task.id}
              attempt={attempt.number}
              running={attempt.status === 'RUNNING'}
            />
          ) : (
            <Output key={`${task.id}/${attempt.number}`} task={task.id} attempt={attempt.number} />
          )}
        </>
      );
    }
  }
  return (
    <Empty title="It runs nothing now">
      {last && (
        <>
          Its last task was{' '}
          <Link to="/tasks/$task" params={{ task: last.id }} search={{ tab: what }}>
            {last.title}
          </Link>
          .
        </>
      )}
    </Empty>
  );
}

function Recent({ agent }: { agent: AgentData }) {
  const tasks = agent.recent.nodes;
  if (tasks.length === 0) return <Empty title="It was given no task yet" />;
  return (
    <div className="scroll-x">
      <table className="plain">
        <thead>
          <tr>
            <th>Status</th>
            <th>Task</th>
            <th>Created</th>
            <th>Took</th>
            <th>Error</th>
          </tr>
        </thead>
        <tbody>
          {tasks.map((task) => (
            <tr key={task.id}>
              <td>
                <State status={task.status} />
              </td>
              <td className="wrap">
                <KeyLink id={task.id} name={task.title} />
              </td>
              <td style={{ whiteSpace: 'nowrap' }}>
                <Ago at={task.createdAt} />
              </td>
              <td style={{ whiteSpace: 'nowrap' }}>
                <Took from={task.startedAt} to={task.startedAt ? task.endedAt : null} />
              </td>
              <td className="dim wrap">{task.error}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <Text size="sm" mt="xs">
        <Link to="/tasks" search={{ view: 'table', agent: agent.id }}>
          All its tasks
        </Link>
      </Text>
    </div>
  );
}

function sessionWords({ kind, cols, rows, vm }: AgentData['session']) {
  if (vm) {
    const warm = vm.warm > 0 ? `; ${many(vm.warm, 'such VM waits', 'such VMs wait')} booted for the next` : '';
    return `a VM for each attempt: ${vm.image}, ${many(vm.cpus, 'CPU')}, ${bytes(vm.memoryBytes)}${warm}`;
  }
  return kind === 'PTY' ? `a terminal of ${cols} by ${rows}` : 'pipes';
}

function Settings({ agent }: { agent: AgentData }) {
  const { limits, connector } = agent;
  const { coding } = connector;
  const limited = [
    limits.cpuMillis !== null && `${limits.cpuMillis / 1_000} cores`,
    limits.memoryBytes !== null && `${bytes(limits.memoryBytes)} of memory`,
    limits.maxProcesses !== null && `${limits.maxProcesses} processes`,
    limits.maxOutputBytes !== null && `${bytes(limits.maxOutputBytes)} of output`,
    limits.wallMs !== null && `${duration(limits.wallMs)} per attempt`,
  ].filter(Boolean);
  return (
    <dl className="facts">
      <dt>Created</dt>
      <dd>
        <Ago at={agent.createdAt} />, life {agent.incarnation}
      </dd>
      <dt>Session</dt>
      <dd>{sessionWords(agent.session)}</dd>
      {connector.argv && (
        <>
          <dt>Program</dt>
          <dd className="mono">{commandLine(connector.argv)}</dd>
        </>
      )}
      {connector.cwd && (
        <>
          <dt>Directory</dt>
          <dd className="mono">{connector.cwd}</dd>
        </>
      )}
      <dt>Limits</dt>
      <dd>{limited.length > 0 ? limited.join(', ') : <span className="dim">none</span>}</dd>
      <dt>Skills</dt>
      <dd>
        {agent.skills.length > 0 ? (
          agent.skills.map(({ name, proficiency }) => `${name} ${proficiency}`).join(', ')
        ) : (
          <span className="dim">none</span>
        )}
      </dd>
      <dt>Weight</dt>
      <dd className="num">{agent.weight}</dd>
      <dt>Starts</dt>
      <dd>
        {agent.autoStart ? 'by itself' : 'when it is told to'}; has {duration(agent.startTimeoutMs)} to start and{' '}
        {duration(agent.stopGraceMs)} to end
      </dd>
      {agent.env.map(({ name, value }) => [
        <dt key={`${name}.`} className="mono">
          {name}
        </dt>,
        <dd key={name} className="mono">
          {value}
        </dd>,
      ])}
      {coding && (
        <>
          <dt>Workspace</dt>
          <dd className="mono">{coding.workspace ?? 'a fresh directory per attempt'}</dd>
          {coding.instructions && (
            <>
              <dt>Role</dt>
              <dd>
                <TextBlock text={coding.instructions} label="Role" />
              </dd>
            </>
          )}
          {coding.checks.length > 0 && (
            <>
              <dt>Checks</dt>
              <dd>{coding.checks.join(', ')}</dd>
            </>
          )}
          <dt>Rules</dt>
          <dd>
            {coding.rules.length === 0 ? (
              <span className="dim">none; it asks for everything</span>
            ) : (
              <ul className="bare mono">
                {coding.rules.map((rule) => (
                  <li key={`${rule.decision}${rule.tool}${rule.path}${rule.command}`}>
                    {word(rule.decision)} {rule.tool}
                    {rule.path && `:${rule.path}`}
                    {rule.command && `:${rule.command}`}
                  </li>
                ))}
              </ul>
            )}
            <div className="dim">
              A person is waited for {duration(coding.withinMs)}; then it is{' '}
              {coding.otherwise === 'ALLOW' ? 'allowed' : 'denied'}.
            </div>
          </dd>
        </>
      )}
    </dl>
  );
}
