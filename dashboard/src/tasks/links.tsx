// How a task hangs together with others: what it waits for, what its plan became.

import { Skeleton, Text } from '@mantine/core';
import { lazy, Suspense } from 'react';
import type { Arrow, Vertex } from '../ui/graph';
import { KeyLink } from '../ui/key';
import { State } from '../ui/state';
import { Took } from '../ui/time';
import type { TaskData } from './query';

const LinkedGraph = lazy(() => import('../ui/graph'));

/** More are listed, not drawn. */
export const DRAWN_MAX = 150;

export function linked(task: TaskData): { vertices: Vertex[]; arrows: Arrow[]; left: number } {
  const vertices = new Map<string, Vertex>();
  const arrows: Arrow[] = [];
  const add = ({ id, title, status }: { id: string; title: string; status: string }, note?: string) => {
    if (!vertices.has(id)) vertices.set(id, { id, label: title, status, note });
  };
  vertices.set(task.id, { id: task.id, label: task.title, status: task.status, note: 'this task', here: true });
  if (task.parent) {
    add(task.parent, 'its plan');
    arrows.push({ from: task.parent.id, to: task.id });
  }
  if (task.twinOf) {
    add(task.twinOf, 'its twin');
    arrows.push({ from: task.twinOf.id, to: task.id });
  }
  for (const dependency of task.dependsOn) {
    add(dependency);
    arrows.push({ from: dependency.id, to: task.id, busy: task.blockedBy.some(({ id }) => id === dependency.id) });
  }
  const shown = task.subtasks.slice(0, DRAWN_MAX);
  const ids = new Set(shown.map(({ id }) => id));
  for (const subtask of shown) {
    add(subtask, subtask.twinOf ? 'a twin' : undefined);
    const before = subtask.dependsOn.filter(({ id }) => ids.has(id));
    if (before.length === 0) arrows.push({ from: task.id, to: subtask.id });
    for (const { id } of before) arrows.push({ from: id, to: subtask.id });
  }
  return { vertices: [...vertices.values()], arrows, left: task.subtasks.length - shown.length };
}

export function hasLinks(task: TaskData): boolean {
  return task.dependsOn.length + task.subtasks.length > 0 || task.parent !== null || task.twinOf !== null;
}

export function Links({ task }: { task: TaskData }) {
  const { vertices, arrows, left } = linked(task);
  return (
    <div style={{ display: 'flex', flexDirection: 'column', gap: '0.8rem' }}>
      <Suspense fallback={<Skeleton height={420} />}>
        <LinkedGraph vertices={vertices} arrows={arrows} label="Graph of linked tasks" />
      </Suspense>
      {left > 0 && (
        <Text size="sm" c="dimmed">
          {left} more subtasks are in the list only.
        </Text>
      )}
      {task.subtasks.length > 0 && (
        <div className="scroll-x" style={{ maxHeight: '24rem', overflowY: 'auto' }}>
          <table className="plain">
            <thead>
              <tr>
                <th>Subtask</th>
                <th>Status</th>
                <th>Took</th>
                <th>Error</th>
              </tr>
            </thead>
            <tbody>
              {task.subtasks.map((subtask) => (
                <tr key={subtask.id}>
                  <td className="wrap">
                    <KeyLink id={subtask.id} name={subtask.title} />
                  </td>
                  <td>
                    <State status={subtask.status} />
                  </td>
                  <td>
                    <Took from={subtask.startedAt} to={subtask.startedAt ? subtask.endedAt : null} />
                  </td>
                  <td className="dim wrap">{subtask.error}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </div>
  );
}
