// What calls of models cost, by whom and by which model, and the budgets that hold it.
import {
  Button,
  Checkbox,
  Group,
  Modal,
  NumberInput,
  SegmentedControl,
  Select,
  Stack,
  Text,
  TextInput,
} from '@mantine/core';
import { getRouteApi } from '@tanstack/react-router';
import { Plus, Trash2 } from 'lucide-react';
import { useState } from 'react';
import type { FeedEvent } from '../live/feed';
import { graphql, type ResultOf } from '../live/graphql';
import { useLive } from '../live/use_live';
import { ConfirmButton, useAct } from '../ui/act';
import { count, money } from '../ui/figures';
import { KeyLink } from '../ui/key';
import { Empty, PageHead, Panel, ProblemNote, Shown } from '../ui/shown';

const USAGE = graphql(`
  query Usage($by: UsageBy!, $atLeast: Cursor) {
    usage(by: $by, first: 300, atLeast: $atLeast) {
      nodes { id name calls input output cacheRead cacheWrite incomplete money { amount currency } }
      pageInfo { hasNextPage }
    }
  }
`);
const BUDGETS = graphql(`
  query Budgets($atLeast: Cursor) {
    budgets(first: 100, atLeast: $atLeast) {
      nodes {
        id scope warned warnPercent
        agent { id name }
        swarm { id name }
        limit { tokens money { amount currency } }
        spent { tokens money { amount currency } }
        reserved { tokens money { amount currency } }
      }
    }
  }
`);
const SET = graphql(`mutation SetBudget($input: SetBudgetInput!) { setBudget(input: $input) { cursor } }`);
const REMOVE = graphql(`mutation RemoveBudget($input: RemoveBudgetInput!) { removeBudget(input: $input) { cursor } }`);

type By = 'AGENT' | 'SWARM' | 'MODEL' | 'LABEL';
type Budget = ResultOf<typeof BUDGETS>['budgets']['nodes'][number];

const touches = (event: FeedEvent) => event.kind === 'ModelUsed' || event.kind.startsWith('Budget');
const route = getRouteApi('/spend');

export function Spend() {
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const by: By = (['AGENT', 'SWARM', 'MODEL', 'LABEL'] as const).find((each) => each === search.by) ?? 'SWARM';
  const usage = useLive(USAGE, { by }, { touches, paceMs: 1_000, everyMs: 15_000 });
  const budgets = useLive(BUDGETS, {}, { touches, paceMs: 1_000, everyMs: 15_000 });
  return (
    <div className="page">
      <PageHead title="Spend" note="What calls of models used, as far as the node that serves this page has heard.">
        <SegmentedControl
          size="xs"
          aria-label="Added up by"
          value={by}
          onChange={(value) => void navigate({ search: { by: value }, replace: true })}
          data={[
            { value: 'SWARM', label: 'Swarm' },
            { value: 'AGENT', label: 'Agent' },
            { value: 'MODEL', label: 'Model' },
            { value: 'LABEL', label: 'Label' },
          ]}
        />
      </PageHead>
      <Panel title="Used" live={usage}>
        <Shown live={usage}>
          {(data) =>
            data.usage.nodes.length === 0 ? (
              <Empty title="No model was called yet">
                Agents that call models through the node are accounted for here, call by call.
              </Empty>
            ) : (
              <div className="scroll-x">
                <table className="plain" style={{ minWidth: 640 }}>
                  <thead>
                    <tr>
                      <th>{by.charAt(0) + by.slice(1).toLowerCase()}</th>
                      <th>Cost</th>
                      <th>Calls</th>
                      <th>Tokens in</th>
                      <th>Tokens out</th>
                      <th>Cache read</th>
                      <th>Cache written</th>
                    </tr>
                  </thead>
                  <tbody>
                    {[...data.usage.nodes]
                      .sort((one, other) => Number(other.money?.amount ?? 0) - Number(one.money?.amount ?? 0))
                      .map((line) => (
                        <tr key={line.id}>
                          <td className="wrap">
                            <KeyLink
                              id={line.id}
                              name={line.name ?? (by === 'MODEL' || by === 'LABEL' ? line.id : undefined)}
                            />
                          </td>
                          <td className="num">
                            {line.money ? money(line.money) : <span className="dim">no price</span>}
                          </td>
                          <td className="num">
                            {count(line.calls)}
                            {line.incomplete > 0 && <span className="dim"> ({count(line.incomplete)} cut)</span>}
                          </td>
                          <td className="num">{count(line.input)}</td>
                          <td className="num">{count(line.output)}</td>
                          <td className="num">{count(line.cacheRead)}</td>
                          <td className="num">{count(line.cacheWrite)}</td>
                        </tr>
                      ))}
                  </tbody>
                </table>
                {data.usage.pageInfo.hasNextPage && (
                  <Text size="sm" c="dimmed">
                    The first 300 are shown.
                  </Text>
                )}
              </div>
            )
          }
        </Shown>
      </Panel>
      <Panel title="Budgets" live={budgets} right={<NewBudget refresh={budgets.refresh} />}>
        <Shown live={budgets}>
          {(data) =>
            data.budgets.nodes.length === 0 ? (
              <Empty title="No budget is set">
                A budget stops calls of models before they pass its limit. Set one for a swarm, an agent or a label.
              </Empty>
            ) : (
              <ul className="bare">
                {data.budgets.nodes.map((budget) => (
                  <BudgetLine key={budget.id} budget={budget} refresh={budgets.refresh} />
                ))}
              </ul>
            )
          }
        </Shown>
      </Panel>
    </div>
  );
}

/** The share of the limit that is spent: of money or tokens, whichever is nearer to its end. */
function share(budget: Budget): number | undefined {
  const shares = [
    budget.limit.money && budget.spent.money
      ? Number(budget.spent.money.amount) / Number(budget.limit.money.amount)
      : undefined,
    budget.limit.tokens !== null && budget.spent.tokens !== null
      ? budget.spent.tokens / budget.limit.tokens
      : undefined,
  ].filter((each): each is number => each !== undefined && Number.isFinite(each));
  return shares.length > 0 ? Math.max(...shares) : undefined;
}

function scopeInput(budget: Budget) {
  if (budget.scope.startsWith('agent_')) return { agent: budget.scope };
  if (budget.scope.startsWith('swarm_')) return { swarm: budget.scope };
  const at = budget.scope.indexOf('=');
  return { label: { key: budget.scope.slice(0, at), value: budget.scope.slice(at + 1) } };
}

function BudgetLine({ budget, refresh }: { budget: Budget; refresh: () => void }) {
  const remove = useAct(REMOVE, refresh);
  const spent = share(budget);
  return (
    <li
      style={{
        display: 'flex',
        flexWrap: 'wrap',
        gap: '0.4rem 1rem',
        alignItems: 'center',
        padding: '0.5rem 0',
        borderTop: '1px solid var(--line)',
      }}
    >
      <span className="clip" style={{ flex: '1 1 10rem' }}>
        <KeyLink id={budget.scope} name={budget.agent?.name ?? budget.swarm?.name} />
        {budget.warned && (
          <span className="state tone-warn" style={{ marginLeft: 8 }}>
            {spent !== undefined && spent >= 1 ? 'spent' : 'past its warning'}
          </span>
        )}
      </span>
      <span style={{ flex: '2 1 14rem' }}>
        {spent !== undefined && (
          <progress
            max={1}
            value={Math.min(1, spent)}
            style={{ width: '100%' }}
            aria-label={`${Math.round(spent * 100)} percent spent`}
          />
        )}
        <span className="dim num" style={{ fontSize: '0.82rem' }}>
          {[
            budget.limit.money &&
              `${budget.spent.money ? money(budget.spent.money) : '–'} of ${money(budget.limit.money)}`,
            budget.limit.tokens !== null &&
              `${budget.spent.tokens === null ? '–' : count(budget.spent.tokens)} of ${count(budget.limit.tokens)} tokens`,
            budget.reserved?.money && `${money(budget.reserved.money)} set aside for calls under way`,
          ]
            .filter(Boolean)
            .join('; ')}
        </span>
      </span>
      <ConfirmButton
        act={remove}
        input={scopeInput(budget)}
        done="The budget is removed."
        title="Remove this budget?"
        consequence="Calls of models are no longer held by it. What was spent stays in the account."
        confirm="Remove"
        size="compact-sm"
        leftSection={<Trash2 size={13} />}
      >
        Remove
      </ConfirmButton>
    </li>
  );
}

function NewBudget({ refresh }: { refresh: () => void }) {
  const act = useAct(SET, refresh);
  const [open, setOpen] = useState(false);
  const [kind, setKind] = useState('swarm');
  const [scope, setScope] = useState('');
  const [amount, setAmount] = useState('');
  const [tokens, setTokens] = useState<number | string>('');
  const [warn, setWarn] = useState(true);
  const close = () => {
    setOpen(false);
    act.clear();
  };
  const at = scope.indexOf('=');
  const bad = scope.trim() === '' || (kind === 'label' && at < 1) || (amount.trim() === '' && tokens === '');
  const submit = async () => {
    const of =
      kind === 'swarm'
        ? { swarm: scope.trim() }
        : kind === 'agent'
          ? { agent: scope.trim() }
          : { label: { key: scope.slice(0, at), value: scope.slice(at + 1) } };
    const done = await act.run(
      {
        ...of,
        money: amount.trim() || null,
        tokens: typeof tokens === 'number' ? tokens : null,
        warnPercent: warn ? 80 : null,
      },
      'The budget is set.',
    );
    if (done) close();
  };
  return (
    <>
      <Button size="compact-sm" variant="default" leftSection={<Plus size={14} />} onClick={() => setOpen(true)}>
        Set a budget
      </Button>
      <Modal opened={open} onClose={close} title="Set a budget">
        <Stack>
          <Group grow align="flex-start">
            <Select
              label="Of"
              data={['swarm', 'agent', 'label']}
              value={kind}
              allowDeselect={false}
              onChange={(value) => setKind(value ?? 'swarm')}
            />
            <TextInput
              label={kind === 'label' ? 'Label' : kind === 'swarm' ? 'Name or key' : 'Key'}
              placeholder={kind === 'label' ? 'key=value' : kind === 'agent' ? 'agent_…' : 'default'}
              value={scope}
              onChange={(event) => setScope(event.currentTarget.value)}
              error={act.problem?.field === 'swarm' || act.problem?.field === 'agent' ? act.problem.message : undefined}
            />
          </Group>
          <Group grow align="flex-start">
            <TextInput
              label="Money at most"
              placeholder="such as 20 or 3.75"
              value={amount}
              onChange={(event) => setAmount(event.currentTarget.value)}
            />
            <NumberInput label="Tokens at most" min={1} value={tokens} onChange={setTokens} thousandSeparator />
          </Group>
          <Checkbox
            label="Warn at 80 percent"
            checked={warn}
            onChange={(event) => setWarn(event.currentTarget.checked)}
          />
          {act.problem && <ProblemNote problem={act.problem} />}
          <Group justify="flex-end">
            <Button variant="default" onClick={close}>
              Keep as it is
            </Button>
            <Button disabled={bad} loading={act.running} onClick={submit}>
              Set
            </Button>
          </Group>
        </Stack>
      </Modal>
    </>
  );
}
