// Whether what is on the page is live. When it is not, a banner says since when, why, and when it is tried again.
import { Button, Tooltip } from '@mantine/core';
import { connectNow, useConnection } from '../live/connection';
import { Ago, At, useNow } from '../ui/time';

export function Connected() {
  const { state, since, why } = useConnection();
  const [status, label] =
    state === 'live'
      ? (['good', 'Live'] as const)
      : state === 'cut'
        ? (['bad', 'Not live'] as const)
        : (['idle', 'Connecting'] as const);
  return (
    <Tooltip
      label={
        state === 'live' ? (
          <>
            Changes arrive as they happen. Connected <Ago at={since} />.
          </>
        ) : state === 'cut' ? (
          `Cut: ${why}`
        ) : (
          'The connection is being made.'
        )
      }
    >
      <span className={`state tone-${status}`} role="status" tabIndex={0} data-connection={state}>
        {label}
      </span>
    </Tooltip>
  );
}

export function CutBanner() {
  const { state, since, why, retryAt } = useConnection();
  const now = useNow();
  if (state !== 'cut') return null;
  const seconds = Math.max(0, Math.ceil((retryAt - now) / 1_000));
  return (
    <div className="banner" role="alert" style={{ margin: '-1rem -1rem 1rem' }}>
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
