// What waits for a person, the most urgent first. Only what somebody can do something about.

import { Group as Row, Text } from '@mantine/core';
import { Link } from '@tanstack/react-router';
import {
  CircleCheck,
  CircleX,
  Coins,
  HardDrive,
  HeartCrack,
  MailWarning,
  MessageCircleQuestion,
  ServerCrash,
} from 'lucide-react';
import type { ComponentType, ReactNode } from 'react';
import { count } from '../ui/figures';
import { KeyLink } from '../ui/key';
import { Ago } from '../ui/time';
import { counted } from './counted';
import type { OverviewData } from './overview';

type Group = { icon: ComponentType<{ size?: number }>; tone: 'bad' | 'warn'; head: ReactNode; lines: ReactNode[] };

export function Attention({ data }: { data: OverviewData }) {
  const groups = [
    ...clusterGroups(data),
    ...approvalGroups(data),
    ...agentGroups(data),
    ...fleetGroups(data),
    ...taskGroups(data),
    ...budgetGroups(data),
  ];
  if (groups.length === 0) return <NothingToDo />;
  return (
    <ul className="bare" style={{ display: 'flex', flexDirection: 'column', gap: '0.8rem' }}>
      {groups.map(({ icon: Icon, tone, head, lines }, index) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: groups have a fixed order
        <li key={index} style={{ display: 'flex', gap: '0.7rem' }}>
          <span
            className={`tone-${tone}`}
            style={{ borderRadius: 8, padding: 6, height: 30, flex: 'none' }}
            aria-hidden
          >
            <Icon size={18} />
          </span>
          <div style={{ minWidth: 0, flex: 1 }}>
            <div style={{ fontWeight: 600, lineHeight: '30px' }}>{head}</div>
            <ul className="bare">
              {lines.map((line, at) => (
                <li
                  // biome-ignore lint/suspicious/noArrayIndexKey: a few lines, read anew each time
                  key={at}
                  style={{ fontSize: '0.88rem', padding: '0.12rem 0', display: 'flex', gap: '0.8rem', minWidth: 0 }}
                >
                  {line}
                </li>
              ))}
            </ul>
          </div>
        </li>
      ))}
    </ul>
  );
}

const plural = (n: number, one: string, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

function clusterGroups({ cluster }: OverviewData): Group[] {
  const groups: Group[] = [];
  if (cluster.noQuorum) {
    groups.push({
      icon: ServerCrash,
      tone: 'bad',
      head: <Link to="/cluster">The cluster cannot agree on writes</Link>,
      lines: [cluster.noQuorum],
    });
  }
  if (cluster.disk !== 'ok') {
    groups.push({
      icon: HardDrive,
      tone: 'bad',
      head: <Link to="/cluster">The ledger’s disk has a problem</Link>,
      lines: [cluster.disk],
    });
  }
  const ill = cluster.nodes.filter((node) => node.status === 'LOST' || (node.suspected && node.status !== 'REMOVED'));
  if (ill.length > 0) {
    groups.push({
      icon: ServerCrash,
      tone: 'bad',
      head: <Link to="/cluster">{plural(ill.length, 'node')} lost or silent</Link>,
      lines: ill.slice(0, 5).map((node) => (
        <>
          <KeyLink id={node.id} />
          <span className="clip">{node.why ?? node.suspected}</span>
        </>
      )),
    });
  }
  const troubled = cluster.nodes.flatMap((node) => node.troubled);
  if (troubled.length > 0) {
    groups.push({
      icon: ServerCrash,
      tone: 'bad',
      head: <Link to="/tree">{plural(troubled.length, 'actor')} given up or hanging</Link>,
      lines: troubled.slice(0, 5).map((actor) => (
        <>
          {actor.key ? <KeyLink id={actor.key} /> : <span>{actor.path}</span>}
          <span className="clip" title={actor.why}>
            {actor.why}
          </span>
        </>
      )),
    });
  }
  return groups;
}

function approvalGroups({ approvals }: OverviewData): Group[] {
  const { nodes, pageInfo } = approvals;
  if (nodes.length === 0) return [];
  return [
    {
      icon: MessageCircleQuestion,
      tone: 'warn',
      head: (
        <Link to="/approvals">
          {pageInfo.hasNextPage
            ? `More than ${nodes.length} questions wait`
            : `${plural(nodes.length, 'question')} ${nodes.length === 1 ? 'waits' : 'wait'}`}{' '}
          for an answer
        </Link>
      ),
      lines: nodes.map((approval) => (
        <>
          <span className="clip">
            {approval.agent ? <KeyLink id={approval.agent.id} name={approval.agent.name} /> : 'an agent'} asks for{' '}
            <strong>{approval.tool}</strong>
            {approval.task && (
              <>
                {' '}
                in <KeyLink id={approval.task.id} name={approval.task.title} />
              </>
            )}
          </span>
          <span className="dim" style={{ whiteSpace: 'nowrap' }}>
            <Ago at={approval.askedAt} />
          </span>
        </>
      )),
    },
  ];
}

function agentGroups({ agents }: OverviewData): Group[] {
  const { nodes, pageInfo } = agents;
  if (nodes.length === 0) return [];
  return [
    {
      icon: HeartCrack,
      tone: 'bad',
      head: (
        <Link to="/agents" search={{ status: ['FAILED', 'LOST'] }}>
          {pageInfo.hasNextPage ? `More than ${nodes.length} agents` : plural(nodes.length, 'agent')} failed or lost
        </Link>
      ),
      lines: nodes.slice(0, 5).map((agent) => (
        <>
          <KeyLink id={agent.id} name={agent.name} />
          <span className="clip dim">{agent.lastFailure}</span>
        </>
      )),
    },
  ];
}

function fleetGroups({ hosts, vms }: OverviewData): Group[] {
  const lists = [
    {
      ...hosts,
      one: 'host',
      words: 'not reached or lost',
      lines: hosts.nodes.map(({ why, ...host }) => ({ ...host, why })),
    },
    {
      ...vms,
      one: 'VM',
      words: 'failed or lost',
      lines: vms.nodes.map(({ failure, ...vm }) => ({ ...vm, why: failure })),
    },
  ];
  return lists.flatMap(({ nodes, pageInfo, one, words, lines }): Group[] =>
    nodes.length === 0
      ? []
      : [
          {
            icon: HardDrive,
            tone: 'bad',
            head: (
              <Link to="/hosts">
                {pageInfo.hasNextPage ? `More than ${nodes.length} ${one}s` : plural(nodes.length, one)} {words}
              </Link>
            ),
            lines: lines.map((line) => (
              <>
                <KeyLink id={line.id} name={line.name} />
                <span className="clip dim">{line.why}</span>
              </>
            )),
          },
        ],
  );
}

function taskGroups({ dead, failed, swarms }: OverviewData): Group[] {
  const lists = [
    {
      status: 'DEAD',
      tasks: dead.nodes,
      words: (n: number) => `${plural(n, 'dead letter')}: attempts are used up`,
      icon: MailWarning,
    },
    {
      status: 'FAILED',
      tasks: failed.nodes,
      words: (n: number) => `${plural(n, 'task')} failed for good, or at a gate`,
      icon: CircleX,
    },
  ];
  return lists.flatMap(({ status, tasks, words, icon }): Group[] => {
    if (tasks.length === 0) return [];
    // Counts and lists are read at one moment each; the larger one is not older.
    const many = Math.max(counted(swarms.nodes, status), tasks.length);
    return [
      {
        icon,
        tone: 'bad',
        head: (
          <Link to="/tasks" search={{ view: 'table', status: [status] }}>
            {words(many)}
          </Link>
        ),
        lines: tasks.map((task) => (
          <>
            <span className="clip" style={{ flex: '0 1 auto', maxWidth: '45%' }}>
              <KeyLink id={task.id} name={task.title} />
            </span>
            <span className="clip dim" style={{ flex: '1 1 0' }}>
              {task.error}
            </span>
            <span className="dim" style={{ whiteSpace: 'nowrap' }}>
              <Ago at={task.endedAt} />
            </span>
          </>
        )),
      },
    ];
  });
}

function budgetGroups({ budgets }: OverviewData): Group[] {
  const warned = budgets.nodes.filter((budget) => budget.warned);
  if (warned.length === 0) return [];
  return [
    {
      icon: Coins,
      tone: 'warn',
      head: <Link to="/spend">{plural(warned.length, 'budget')} past its warning</Link>,
      lines: warned.slice(0, 5).map((budget) => <KeyLink key={budget.id} id={budget.scope} />),
    },
  ];
}

function NothingToDo() {
  return (
    <Row gap="xs" style={{ color: 'var(--good)' }}>
      <CircleCheck size={18} aria-hidden />
      <Text size="sm">Nothing waits for you: no dead letters, failures, questions or lost nodes.</Text>
    </Row>
  );
}
