// The states of things as a dot and a word.

export type Tone = 'good' | 'busy' | 'warn' | 'bad' | 'idle';

const TONES: Record<string, Tone> = {
  // Tasks and attempts
  PENDING: 'idle',
  QUEUED: 'idle',
  ASSIGNED: 'busy',
  RUNNING: 'busy',
  VERIFYING: 'busy',
  RETRYING: 'warn',
  SUCCEEDED: 'good',
  FAILED: 'bad',
  DEAD: 'bad',
  CANCELLED: 'idle',
  TIMED_OUT: 'bad',
  LOST: 'bad',
  // Agents
  CREATED: 'idle',
  STARTING: 'warn',
  IDLE: 'good',
  BUSY: 'busy',
  PAUSED: 'warn',
  STOPPING: 'warn',
  STOPPED: 'idle',
  // Nodes
  UP: 'good',
  DRAINING: 'warn',
  DRAINED: 'idle',
  REMOVED: 'idle',
  // Hosts and VMs
  CONNECTING: 'warn',
  UNREACHABLE: 'bad',
  DEFINED: 'idle',
  MIGRATING: 'busy',
  SUPERSEDED: 'idle',
  // Actors
  RESTARTING: 'warn',
  // Approvals
  OPEN: 'warn',
  ALLOWED: 'good',
  DENIED: 'bad',
  WITHDRAWN: 'idle',
};

export function tone(status: string): Tone {
  return TONES[status] ?? 'idle';
}

export function word(status: string): string {
  return status.toLowerCase().replaceAll('_', ' ');
}

export function State({ status, as }: { status: string; as?: Tone }) {
  return <span className={`state tone-${as ?? tone(status)}`}>{word(status)}</span>;
}
