// Attempts over time: waiting, assigned, running, each to scale.

import { KeyLink } from '../ui/key';
import { State, tone } from '../ui/state';
import { duration, useNow, utc } from '../ui/time';
import type { Attempt, TaskData } from './query';

type Bar = { from: number; to: number; kind: 'wait' | 'assigned' | 'run'; label: string };

/** Where the parts of an attempt begin and end, in milliseconds since 1970. `ready` is when it could have begun. */
export function bars(
  attempt: Pick<Attempt, 'assignedAt' | 'startedAt' | 'endedAt'>,
  ready: number,
  now: number,
): Bar[] {
  const assigned = Date.parse(attempt.assignedAt);
  const end = attempt.endedAt ? Date.parse(attempt.endedAt) : now;
  const started = attempt.startedAt ? Date.parse(attempt.startedAt) : undefined;
  const parts: Bar[] = [
    { from: Math.min(ready, assigned), to: assigned, kind: 'wait', label: 'waited' },
    { from: assigned, to: started ?? end, kind: 'assigned', label: 'assigned' },
  ];
  if (started !== undefined) parts.push({ from: started, to: Math.max(started, end), kind: 'run', label: 'ran' });
  return parts.filter((bar) => bar.to > bar.from);
}

export function Waterfall({
  task,
  chosen,
  choose,
}: {
  task: TaskData;
  chosen: number;
  choose: (attempt: number) => void;
}) {
  const now = useNow();
  const begin = Date.parse(task.createdAt);
  const end = Math.max(
    task.endedAt ? Date.parse(task.endedAt) : now,
    ...task.attempts.map((each) => (each.endedAt ? Date.parse(each.endedAt) : 0)),
    begin + 1,
  );
  const span = end - begin;
  const at = (moment: number) => `${Math.min(100, Math.max(0, ((moment - begin) / span) * 100))}%`;
  return (
    <div className="scroll-x">
      <div className="fall">
        <ul className="bare" aria-label="Attempts">
          {task.attempts.map((attempt, index) => {
            const before = task.attempts[index - 1];
            const ready = before?.endedAt ? Date.parse(before.endedAt) : begin;
            return (
              <li key={attempt.number} className="fall-row" data-chosen={attempt.number === chosen}>
                <button
                  type="button"
                  className="fall-label"
                  onClick={() => choose(attempt.number)}
                  aria-pressed={attempt.number === chosen}
                >
                  <span className="num">#{attempt.number}</span> <State status={attempt.status} />
                </button>
                <span className="clip" style={{ fontSize: '0.85rem' }}>
                  <KeyLink id={attempt.agentId} name={attempt.agent?.name} />
                </span>
                <div className="fall-track">
                  {bars(attempt, ready, now).map((bar) => (
                    <div
                      key={bar.kind}
                      className={`fall-bar fall-${bar.kind} ${bar.kind === 'run' ? `tone-${tone(attempt.status)}` : ''}`}
                      style={{ left: at(bar.from), width: `max(3px, calc(${at(bar.to)} - ${at(bar.from)}))` }}
                      title={`${bar.label} ${duration(bar.to - bar.from)}\nfrom ${utc(bar.from)}`}
                    />
                  ))}
                </div>
                <span className="dim num" style={{ fontSize: '0.8rem', textAlign: 'right' }}>
                  {duration(
                    (attempt.endedAt ? Date.parse(attempt.endedAt) : now) -
                      Date.parse(attempt.startedAt ?? attempt.assignedAt),
                  )}
                </span>
              </li>
            );
          })}
        </ul>
        <div className="fall-row dim" style={{ fontSize: '0.75rem' }}>
          <span />
          <span />
          <span style={{ display: 'flex', justifyContent: 'space-between' }}>
            <span>submitted</span>
            <span className="num">{task.endedAt ? `ended after ${duration(span)}` : `${duration(span)} so far`}</span>
          </span>
          <span />
        </div>
      </div>
    </div>
  );
}
