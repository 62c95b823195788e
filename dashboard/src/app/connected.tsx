// Whether what is on the page is live. When it is not, a banner says since when, why, and when it is tried again.
import { Button } from '@mantine/core';
import { connectNow, useConnection } from '../live/connection';
import { useOrigin } from '../live/elsewhere';
import { At, clock, useNow } from '../ui/time';

export function Connected() {
  const { state, since, why } = useConnection();
  const [status, label] =
    state === 'live'
      ? (['good', 'Live'] as const)
      : state === 'cut'
        ? (['bad', 'Not live'] as const)
        : (['idle', 'Connecting'] as const);
  const title =
    state === 'live'
      ? `Changes arrive as they happen. Connected since ${clock(since)}.`
      : state === 'cut'
        ? `Cut: ${why}`
        : 'The connection is being made.';
  return (
    <span className={`state tone-${status}`} role="status" title={title} data-connection={state}>
      {label}
    </span>
  );
}

export function CutBanner() {
  const { state, since, why, retryAt } = useConnection();
  const now = useNow();
  const origin = useOrigin();
  if (state === 'live' && origin !== '') {
    return (
      <div className="banner banner-calm" role="status">
        <span>
          The node that this page came from, <strong>{location.host}</strong>, does not answer. It goes on from{' '}
          <strong>{new URL(origin).host}</strong>, live and with nothing missed.
        </span>
      </div>
    );
  }
  if (state !== 'cut') return null;
  const seconds = Math.max(0, Math.ceil((retryAt - now) / 1_000));
  return (
    <div className="banner" role="alert">
      <span>
        <strong>
          Not live since <At at={since} />:
        </strong>{' '}
        {why}. What you see is from before and may have changed.{' '}
        {seconds > 0 ? `Next try in ${seconds} s.` : 'Trying now.'}
      </span>
      <Button size="compact-sm" variant="default" onClick={connectNow}>
        Try now
      </Button>
    </div>
  );
}
