// What every screen shows when there is nothing, not yet anything, or a problem; and how old what it shows is.
import { Button, Group, Skeleton, Stack, Text, Title } from '@mantine/core';
import { CircleAlert } from 'lucide-react';
import type { ReactNode } from 'react';
import type { Problem } from '../live/problem';
import { At } from './time';

export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <Stack align="center" gap={4} py="xl" px="md" ta="center">
      <Text fw={600}>{title}</Text>
      {children && (
        <Text size="sm" c="dimmed" component="div" maw={560} className="prose">
          {children}
        </Text>
      )}
    </Stack>
  );
}

const ADVICE: Partial<Record<Problem['code'], string>> = {
  FORBIDDEN: 'Sign in with an administrator’s token to do this.',
  BUSY: 'It is tried again by itself.',
  UNAVAILABLE: 'It is tried again by itself; the cluster page says which nodes can be reached.',
  NOT_FOUND: 'It may have been removed. Look for it in the list.',
};

export function ProblemNote({ problem, retry, at }: { problem: Problem; retry?: () => void; at?: number }) {
  return (
    <Group
      role="alert"
      gap="sm"
      align="flex-start"
      wrap="nowrap"
      className="tone-bad"
      style={{ borderRadius: 8, padding: '0.6rem 0.8rem' }}
    >
      <CircleAlert size={18} style={{ flex: 'none', marginTop: 2 }} aria-hidden />
      <div style={{ flex: 1, minWidth: 0 }} className="wrap">
        <Text size="sm" fw={600} component="div">
          {problem.message}
        </Text>
        <Text size="sm" component="div">
          {ADVICE[problem.code]}
          {problem.field && ` Field: ${problem.field}.`}
          {problem.code === 'INTERNAL' && problem.trace && ` Trace ${problem.trace}.`}
          {at ? (
            <>
              {' '}
              What is shown is from <At at={at} />.
            </>
          ) : null}
        </Text>
      </div>
      {retry && (
        <Button size="compact-sm" variant="default" onClick={retry}>
          Try now
        </Button>
      )}
    </Group>
  );
}

type Readable<Data> = {
  data: Data | undefined;
  problem: Problem | undefined;
  at: number;
  stale: boolean;
  loading: boolean;
  refresh: () => void;
};

/** The answer of a query, or what there is to say instead of it. */
export function Shown<Data>({
  live,
  children,
  rows = 3,
}: {
  live: Readable<Data>;
  children: (data: Data) => ReactNode;
  rows?: number;
}) {
  if (live.data === undefined) {
    if (live.problem) return <ProblemNote problem={live.problem} retry={live.refresh} />;
    return (
      <Stack gap="xs" aria-busy="true" aria-label="Loading">
        {Array.from({ length: rows }, (_, row) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: they are all alike
          <Skeleton key={row} height={22} />
        ))}
      </Stack>
    );
  }
  return (
    <>
      {live.problem && <ProblemNote problem={live.problem} retry={live.refresh} at={live.at} />}
      {children(live.data)}
    </>
  );
}

export function Panel({
  title,
  right,
  children,
  live,
  tight,
}: {
  title: ReactNode;
  right?: ReactNode;
  children: ReactNode;
  live?: { stale: boolean; at: number; data?: unknown };
  tight?: boolean;
}) {
  return (
    <section
      className={tight ? 'card card-tight' : 'card'}
      data-stale={live?.stale && live.at > 0 ? 'true' : undefined}
    >
      <Group justify="space-between" gap="xs" mb={tight ? 0 : 'xs'} p={tight ? '0.7rem 0.9rem 0.5rem' : 0} wrap="wrap">
        <Title order={2}>{title}</Title>
        <Group gap="xs">
          {right}
          {live && <Freshness live={live} />}
        </Group>
      </Group>
      <div className="shown">{children}</div>
    </section>
  );
}

/** Says aloud when something is not live; silent while it is. */
export function Freshness({ live }: { live: { stale: boolean; at: number } }) {
  if (!live.stale || live.at === 0) return null;
  return (
    <Text size="xs" c="dimmed">
      as of <At at={live.at} />
    </Text>
  );
}

export function PageHead({ title, children, note }: { title: ReactNode; children?: ReactNode; note?: ReactNode }) {
  return (
    <Group justify="space-between" align="center" gap="xs">
      <div style={{ minWidth: 0, flex: '1 1 18rem' }}>
        <Title order={1} className="wrap">
          {title}
        </Title>
        {note && (
          <Text size="sm" c="dimmed" component="div" className="prose">
            {note}
          </Text>
        )}
      </div>
      <Group gap="xs">{children}</Group>
    </Group>
  );
}
