// What an agent's calls of models took over time, call by call as the ledger has them.
import { Text } from '@mantine/core';
import { useMemo } from 'react';
import { graphql, type ResultOf } from '../live/graphql';
import { useLive } from '../live/use_live';
import { count, many, short, sum } from '../ui/figures';
import { type Figure, Plots, type Series } from '../ui/plots';
import { Empty, Shown } from '../ui/shown';
import { At } from '../ui/time';

const CALLS = graphql(`
  query ModelCalls($agent: ID!) {
    events(last: 500, filter: { agent: $agent, kind: ["ModelUsed"] }) { nodes { at data } pageInfo { hasPreviousPage } }
  }
`);

type Call = { at: string; input: number; output: number; money?: { amount: string; currency: string } };

export function callsOf(events: ResultOf<typeof CALLS>['events']['nodes']): Call[] {
  return events.map(({ at, data }) => {
    const said = data as { input?: number; output?: number; money?: Call['money'] | null };
    return {
      at,
      input: said.input ?? 0,
      output: said.output ?? 0,
      ...(said.money ? { money: said.money } : {}),
    };
  });
}

export function UsageOverTime({ agent }: { agent: string }) {
  const live = useLive(CALLS, { agent }, { touches: (event) => event.kind === 'ModelUsed' && event.agent === agent });
  return (
    <Shown live={live} rows={4}>
      {({ events }) => <Drawn calls={callsOf(events.nodes)} older={events.pageInfo.hasPreviousPage} />}
    </Shown>
  );
}

function Drawn({ calls, older }: { calls: Call[]; older: boolean }) {
  const drawn = useMemo(() => {
    const times = calls.map(({ at }) => Date.parse(at) / 1_000);
    const grown = (value: (call: Call) => number) => {
      let all = 0;
      return calls.map((call) => {
        all += value(call);
        return all;
      });
    };
    const currency = calls.find(({ money }) => money)?.money?.currency;
    const tokens: Series[] = [
      { label: 'in', color: '--busy', values: grown(({ input }) => input) },
      { label: 'out', color: '--good', values: grown(({ output }) => output) },
    ];
    const priced = calls.flatMap(({ money }) => (money && money.currency === currency ? [money.amount] : []));
    const money: Series[] = [
      {
        label: currency ?? '',
        color: '--warn',
        // Only how high the line is; what it comes to is added up digit by digit.
        values: grown(({ money: paid }) => (paid && paid.currency === currency ? Number(paid.amount) : 0)),
      },
    ];
    return { times, tokens, money, currency, total: sum(priced), unpriced: calls.length - priced.length };
  }, [calls]);
  const [first, last] = [calls[0], calls.at(-1)];
  if (!first || !last) return <Empty title="It has called no models" />;
  const [from, to] = [
    Date.parse(first.at) / 1_000,
    Math.max(Date.parse(last.at) / 1_000, Date.parse(first.at) / 1_000 + 1),
  ];
  const figures: Figure[] = [
    {
      title: 'Tokens',
      times: drawn.times,
      series: drawn.tokens,
      format: short,
      told: drawn.tokens.map(({ label, values }) => `${count(values.at(-1) ?? 0)} ${label}`).join(', '),
    },
  ];
  if (drawn.currency)
    figures.push({
      title: 'Money',
      note:
        drawn.unpriced > 0
          ? `${drawn.unpriced === 1 ? 'one call has' : `${count(drawn.unpriced)} calls have`} no price`
          : undefined,
      times: drawn.times,
      series: drawn.money,
      format: (value) => value.toPrecision(3),
      told: `${drawn.total} ${drawn.currency}`,
    });
  return (
    <>
      <Text size="sm" c="dimmed" mb="xs">
        {older ? `The last ${many(calls.length, 'call')}` : `${many(calls.length, 'call')}, all that the ledger has`},
        from <At at={first.at} withDate /> to <At at={last.at} withDate />, added up.
      </Text>
      <Plots from={from} to={to} figures={figures} />
    </>
  );
}
