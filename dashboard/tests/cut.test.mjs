// When the connection is cut: nothing stale passes for live, the page recovers by itself, and no event is missing.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { launch, live, open, PHONE, picture, sound } from './support/browser.mjs';
import { Node, until } from './support/node.mjs';

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser?.close());

describe('the node that serves the page', () => {
  let node;
  before(async () => {
    node = await Node.start();
  });
  after(() => node?.stop());

  test('is killed: the page says so at once, goes on when it is back, and has every event once', async () => {
    // From the beginning: when exactly "from now on" begins nobody outside the page can say.
    const page = await open(browser, node, { path: '/ui/events?from=start' });
    await live(page);
    const submit = async (count, name) => {
      const tasks = Array.from({ length: count }, (_, index) => ({
        title: `${name} ${index}`,
        command: { argv: ['true'] },
      }));
      await node.ask('mutation($i:SubmitTasksInput!){submitTasks(input:$i){cursor}}', { i: { tasks } });
    };
    await submit(20, 'before');
    await page.getByRole('region', { name: 'Events' }).getByText('Task attempt ended').first().waitFor();
    await page.evaluate(() => {
      window.__sameLoad = true;
    });
    await node.kill();
    await page.getByRole('alert').getByText('Not live since').waitFor();
    assert.equal(await page.locator('[data-connection]').getAttribute('data-connection'), 'cut');
    await node.begin();
    await submit(20, 'after');
    await live(page);
    assert.equal(await page.getByText('Not live since').count(), 0);
    await until('all have ended', async () => {
      const { swarms } = await node.ask('{swarms{nodes{taskCounts{status count}}}}');
      return swarms.nodes[0].taskCounts.find(({ status }) => status === 'SUCCEEDED').count === 40;
    });
    // Some of what follows the last task's end may come after it.
    let wanted = [];
    await until('the page has as many as there are', async () => {
      wanted = (await node.events()).map(({ cursor }) => cursor);
      return page
        .getByRole('status')
        .filter({ hasText: `${wanted.length} shown` })
        .isVisible();
    });
    // Rows are virtual: scroll through all of them and read each one's cursor.
    const seen = new Set();
    await until('every row was read', async () => {
      const rows = await page.locator('.event').evaluateAll((all) => all.map((row) => row.dataset.cursor));
      for (const cursor of rows) seen.add(cursor);
      await page.getByRole('region', { name: 'Events' }).evaluate((region) => region.scrollBy(0, 300));
      return seen.size >= wanted.length;
    });
    assert.deepEqual(
      [...seen].sort((one, other) => Number(one) - Number(other)),
      wanted,
    );
    assert.equal(await page.evaluate(() => window.__sameLoad), true, 'it went on without a reload');
    await sound(page, 'events');
    await page.context().close();
  });

  test('is away while a person looks: what is shown says when it was true, and the same page becomes live again', async () => {
    const page = await open(browser, node);
    await live(page);
    await page.getByText('Nothing waits for you').waitFor();
    const settled = page.locator('section[data-stale="true"]');
    await settled.first().waitFor({ state: 'detached' });
    // The other screens are fetched ahead, for just this.
    await page.waitForFunction(() =>
      performance.getEntriesByType('resource').some(({ name }) => /\/spend-/.test(name)),
    );
    await node.kill();
    await settled.first().waitFor();
    await page
      .getByText(/as of \d/)
      .first()
      .waitFor();
    await page.getByRole('link', { name: 'Tasks', exact: true }).click();
    await page.getByRole('alert').filter({ hasText: 'The node does not answer' }).waitFor();
    // It does no harm while the node is away; the page comes back by itself.
    await page.getByRole('button', { name: 'Try now' }).first().click();
    await picture(page, 'cut-light');
    await page.setViewportSize(PHONE);
    await picture(page, 'cut-phone');
    await node.begin();
    await live(page);
    await page.getByRole('heading', { name: /Succeeded 40/ }).waitFor();
    await page.locator('[data-stale="true"]').waitFor({ state: 'detached' });
    await sound(page, 'tasks');
    await page.context().close();
  });

  test('does not answer a change: asking again asks for the same, so that it is done once', async () => {
    const id = await node.shell('Once', 'sleep 600');
    const page = await open(browser, node, { path: `/ui/tasks/${id}` });
    await page.getByRole('button', { name: 'Cancel', exact: true }).click();
    const asked = [];
    // Whether it got there, the page cannot know.
    await page.route('**/graphql', async (route) => {
      const body = route.request().postDataJSON();
      if (!body.query.includes('cancelTask')) return route.continue();
      asked.push(body.variables.input.operationId);
      if (asked.length > 1) return route.continue();
      return route.abort();
    });
    await page.getByRole('button', { name: 'Cancel the task' }).click();
    await page.getByText('It may have been done; asking again is safe').waitFor();
    await page.getByRole('button', { name: 'Cancel the task' }).click();
    await page.getByText('The task is cancelled.').waitFor();
    assert.equal(asked.length, 2);
    assert.equal(asked[0], asked[1], 'the same intention has the same operation id');
    await page.context().close();
  });
});

test('a token that stops being good signs the person out, and says why', async () => {
  const config = 'auth:\n  tokens:\n    - {name: operator, token: "hw_operator_for_now", administrator: false}\n';
  const node = await Node.start({ config });
  const page = await open(browser, node, { token: 'hw_operator_for_now' });
  await live(page);
  await node.kill();
  node.configure('auth: {tokens: []}\n');
  await node.begin();
  await page.getByText('You were signed out').waitFor();
  assert.equal(
    await page.evaluate(() => sessionStorage.getItem('hiveward-token')),
    null,
    'a token that is no good is not kept',
  );
  await page.getByLabel('Token').first().fill(node.token);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await live(page);
  await page.context().close();
  await node.stop();
});

test('who is no administrator is told so where it matters', async () => {
  const config = 'auth:\n  tokens:\n    - {name: reader, token: "hw_reader_for_tests_only", administrator: false}\n';
  const node = await Node.start({ config });
  const page = await open(browser, node, { token: 'hw_reader_for_tests_only', path: '/ui/tree?actor=node%2Froster' });
  await page.getByRole('button', { name: 'Inject a fault' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Inject' }).click();
  await page.getByRole('alert').filter({ hasText: 'administrator' }).waitFor();
  await page.context().close();
  await node.stop();
});
