// An event as a line: what happened, to what, when.
import type { FeedEvent } from '../live/feed';
import { KeyLink } from '../ui/key';
import type { Tone } from '../ui/state';
import { At } from '../ui/time';

/** `TaskAttemptEnded` as words. */
export function kindWords(kind: string): string {
  const words = kind.replace(/([a-z])([A-Z])/g, '$1 $2').toLowerCase();
  return (words.charAt(0).toUpperCase() + words.slice(1)).replace(/^Vm\b/, 'VM');
}

export function kindTone(kind: string): Tone {
  if (/Failed|Lost|Dead|Refused|GaveUp|Warned|Expired/.test(kind)) return 'bad';
  if (/Asked|Draining|Retry|Cancelled|Removed|Withdrawn/.test(kind)) return 'warn';
  if (/Started|Assigned|Starting|Verifying/.test(kind)) return 'busy';
  if (/Ready|Ended|Succeeded|Answered|Back|Joined|Gathered|Aggregated/.test(kind)) return 'good';
  return 'idle';
}

export function EventLine({ event }: { event: FeedEvent }) {
  const stream =
    event.stream !== event.task && event.stream !== event.agent && !event.stream.startsWith('roster_')
      ? event.stream
      : null;
  return (
    <div
      style={{
        display: 'flex',
        gap: '0.7rem',
        alignItems: 'baseline',
        padding: '0.22rem 0',
        fontSize: '0.87rem',
        minWidth: 0,
      }}
    >
      <span className="dim" style={{ flex: 'none', fontSize: '0.8rem' }}>
        <At at={event.at} />
      </span>
      <span
        className={`tone-${kindTone(event.kind)}`}
        style={{ background: 'none', fontWeight: 600, whiteSpace: 'nowrap' }}
      >
        {kindWords(event.kind)}
      </span>
      <span className="clip" style={{ display: 'inline-flex', gap: '0.7rem' }}>
        {event.task && <KeyLink id={event.task} />}
        {event.agent && <KeyLink id={event.agent} />}
        {stream && !event.task && <KeyLink id={stream} />}
        {event.by && <span className="dim">by {event.by}</span>}
      </span>
    </div>
  );
}
