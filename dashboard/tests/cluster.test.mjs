// Three real nodes: what the page shows of them, and what becomes of it when they die.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { accessible, confirm, launch, live, open, picture, sound } from './support/browser.mjs';
import { Node, until } from './support/node.mjs';

describe('three nodes', () => {
  const nodes = [];
  let browser;
  before(async () => {
    browser = await launch();
    nodes.push(await Node.start({ cluster: true }));
    for (let number = 2; number <= 3; number += 1) {
      const token = (await nodes[0].cli('token', 'create', '--quiet')).split('\n').at(-1);
      nodes.push(
        await Node.start({ cluster: true, args: ['--join', `127.0.0.1:${nodes[0].linkPort}`, '--token', token] }),
      );
    }
    await until('three vote', async () => (await nodes[0].ask('{cluster{voters{id}}}')).cluster.voters.length === 3);
    await nodes[0].ask('mutation($i:ScaleSwarmInput!){scaleSwarm(input:$i){cursor}}', {
      i: { swarm: 'default', agents: 12, template: { name: 'spread', connector: { noop: true } } },
    });
  });
  after(async () => {
    await browser?.close();
    for (const node of nodes) await node.stop();
  });

  const ids = async (node) => (await node.ask('{cluster{leader{id} nodes{id address}}}')).cluster;
  const of = (cluster, node) => cluster.nodes.find(({ address }) => address.endsWith(`:${node.linkPort}`)).id;

  test('leader, leases, links and certificates are shown, and each node has its tree', async () => {
    const cluster = await ids(nodes[0]);
    const page = await open(browser, nodes[1], { path: '/ui/cluster', token: nodes[0].token });
    await live(page);
    for (const { id } of cluster.nodes) {
      const card = page.getByRole('region', { name: `Node ${id}` });
      await card.getByText('good until').waitFor();
      await card.getByText(/ left$/).waitFor();
      assert.equal(await card.getByText('leader', { exact: true }).count(), id === cluster.leader.id ? 1 : 0);
    }
    await page.getByRole('heading', { name: 'Links' }).waitFor();
    await page.getByRole('cell', { name: 'raft' }).first().waitFor();
    await picture(page, 'cluster-three-light');
    await accessible(page, 'cluster of three');
    const far = of(cluster, nodes[2]);
    await page
      .getByRole('region', { name: `Node ${far}` })
      .getByRole('link', { name: 'tree' })
      .click();
    await page
      .getByRole('treeitem', { name: /agents/ })
      .first()
      .waitFor();
    await until('it is the far node’s tree', async () => page.url().includes(far));
    await sound(page, 'cluster');
    await page.context().close();
  });

  test('the node that serves a page is killed: the page goes on from another address, with every event once; pages of others show it lost', async () => {
    const cluster = await ids(nodes[0]);
    const victim = nodes.findIndex((node) => of(cluster, node) === cluster.leader.id);
    const other = nodes[(victim + 1) % 3];
    const addresses = await other.ask('{cluster{nodes{gatewayUrl}}}');
    assert.deepEqual(
      addresses.cluster.nodes.map(({ gatewayUrl }) => gatewayUrl).sort(),
      nodes.map(({ url }) => url).sort(),
      'each node says where browsers reach it',
    );
    const [mine, theirs] = await Promise.all([
      open(browser, nodes[victim], { path: '/ui/events' }),
      open(browser, other, { path: '/ui/cluster' }),
    ]);
    await Promise.all([live(mine), live(theirs)]);
    // The other screens are fetched ahead, for just this.
    await mine.waitForFunction(() =>
      performance.getEntriesByType('resource').some(({ name }) => /\/graph-/.test(name)),
    );
    await mine.evaluate(() => {
      window.__sameLoad = true;
    });
    const make = (name) => other.ask('mutation($i:CreateSwarmInput!){createSwarm(input:$i){cursor}}', { i: { name } });
    const { createSwarm: first } = await make('before');
    await mine.locator(`.event[data-cursor="${first.cursor}"]`).waitFor();
    await nodes[victim].kill();
    await mine.getByText('It goes on from').waitFor({ timeout: 60_000 });
    await picture(mine, 'events-elsewhere-light');
    await accessible(mine, 'events that go on from another node');
    const lost = theirs.getByRole('region', { name: `Node ${cluster.leader.id}` });
    await lost.getByText('lost', { exact: true }).waitFor({ timeout: 60_000 });
    await until('another leads', async () => {
      const { leader } = await ids(other);
      return leader && leader.id !== cluster.leader.id;
    });
    await live(theirs);
    await theirs.getByRole('link', { name: 'Overview', exact: true }).click();
    await theirs.getByText('1 node lost or silent').waitFor();
    await picture(theirs, 'overview-lost-light');
    // Written while its node is gone.
    const { createSwarm: last } = await make('meanwhile');
    await mine.locator(`.event[data-cursor="${last.cursor}"]`).waitFor();
    const wanted = (await other.events())
      .map(({ cursor }) => Number(cursor))
      .filter((cursor) => cursor >= Number(first.cursor) && cursor <= Number(last.cursor));
    const seen = [];
    await mine.getByRole('region', { name: 'Events' }).evaluate((region) => region.scrollTo(0, 0));
    await until('every row was read', async () => {
      const rows = await mine.locator('.event').evaluateAll((all) => all.map((row) => Number(row.dataset.cursor)));
      for (const cursor of rows) if (!seen.includes(cursor)) seen.push(cursor);
      await mine.getByRole('region', { name: 'Events' }).evaluate((region) => region.scrollBy(0, 200));
      return seen.includes(wanted[0]);
    });
    assert.deepEqual(
      seen.filter((cursor) => cursor >= wanted[0] && cursor <= wanted.at(-1)).sort((one, next) => one - next),
      wanted,
      'no event is missing',
    );
    // What it shows and what it changes comes from there too.
    await mine.getByRole('link', { name: 'Swarms', exact: true }).click();
    await mine.getByRole('link', { name: 'default' }).click();
    await mine.locator('.react-flow__node', { hasText: 'spread' }).first().waitFor();
    await mine.getByRole('link', { name: 'Swarms', exact: true }).click();
    await mine.getByRole('link', { name: 'meanwhile' }).click();
    await mine.getByRole('button', { name: 'Remove' }).click();
    await confirm(mine, 'Remove');
    await mine.getByRole('heading', { name: 'Swarms', exact: true }).waitFor();
    await mine.getByRole('link', { name: 'meanwhile' }).waitFor({ state: 'detached' });
    await live(mine);
    assert.equal(await mine.evaluate(() => window.__sameLoad), true, 'it went on without a reload');
    assert.equal(await mine.evaluate(() => location.origin), nodes[victim].url);
    await nodes[victim].begin();
    await theirs.getByText('1 node lost or silent').waitFor({ state: 'detached', timeout: 60_000 });
    await live(mine);
    await sound(mine, 'the page of the one that was killed');
    await sound(theirs, 'the page of another');
    await Promise.all([mine.context().close(), theirs.context().close()]);
  });

  test('a node is drained from its card, and taken back', async () => {
    const cluster = await ids(nodes[0]);
    const page = await open(browser, nodes[0], { path: '/ui/cluster' });
    const id = of(cluster, nodes[2]);
    const card = page.getByRole('region', { name: `Node ${id}` });
    await card.getByRole('button', { name: 'Drain' }).click();
    await page.getByRole('dialog').getByText('finishes or moves to other nodes').waitFor();
    await confirm(page, 'Drain');
    await card.getByText('drained', { exact: true }).waitFor({ timeout: 60_000 });
    await card.getByRole('button', { name: 'Take entities again' }).click();
    await card.getByText('up', { exact: true }).waitFor();
    await sound(page, 'cluster');
    await page.context().close();
  });
});
