// biome-ignore-all lint/suspicious/noControlCharactersInRegex: output has them

// What a person does with it, from signing in to watching a recovery, against one real node.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { confirm, launch, live, open, panel, sound } from './support/browser.mjs';
import { until } from './support/node.mjs';
import { scene } from './support/scene.mjs';

describe('one node', () => {
  let hive;
  let node;
  let browser;
  let page;
  before(async () => {
    [hive, browser] = await Promise.all([scene(), launch()]);
    node = hive.node;
  });
  after(async () => {
    await browser?.close();
    await node?.stop();
  });
  beforeEach(async () => {
    page = await open(browser, node);
  });
  afterEach(async () => {
    await sound(page, page.url());
    await page.context().close();
  });

  const status = (id) =>
    node
      .ask('query($t:ID!){node(id:$t){... on Task{status} ... on Agent{state:status}}}', { t: id })
      .then((data) => data.node.status ?? data.node.state);

  test('who has no known token is told so, and who has one gets to the address that was asked for', async () => {
    const stranger = await open(browser, node, { token: '', path: `/ui/tasks/${hive.dead}` });
    await stranger.getByLabel('Token').first().fill('hw_wrong');
    await stranger.getByRole('button', { name: 'Sign in' }).click();
    await stranger.getByText('the token is not known here').waitFor();
    await stranger.getByLabel('Token').first().fill(node.token);
    await stranger.getByRole('button', { name: 'Sign in' }).click();
    await stranger.getByRole('heading', { name: 'Deploy to staging' }).waitFor();
    assert.equal(
      await stranger.evaluate(() => localStorage.getItem('hiveward-token')),
      null,
      'it is kept for this tab only',
    );
    await stranger.getByRole('button', { name: 'Sign out' }).click();
    await stranger.getByLabel('Token').first().waitFor();
    assert.equal(await stranger.evaluate(() => sessionStorage.getItem('hiveward-token')), null);
    await stranger.context().close();
  });

  test('what needs a person comes first, and leads to where it can be done', async () => {
    const needs = panel(page, 'Needs a person');
    await needs.getByText('1 question waits for an answer').waitFor();
    await needs.getByRole('link', { name: 'Deploy to staging' }).waitFor();
    await needs.getByText('covers-every-file').waitFor();
    await needs.getByRole('link', { name: 'Deploy to staging' }).click();
    await page.getByRole('button', { name: 'Redrive' }).waitFor();
  });

  test('a task that the command line submits appears without a reload', async () => {
    await page.goto(`${node.url}/ui/tasks`);
    await live(page);
    await page.evaluate(() => {
      window.__sameLoad = true;
    });
    const id = await node.cli('task', 'submit', '--title', 'From the command line', '-q', '--', 'sleep', '600');
    const card = page
      .getByRole('region', { name: 'Waiting' })
      .or(page.getByRole('region', { name: 'Running' }))
      .getByText('From the command line');
    await card.waitFor();
    await node.cli('task', 'cancel', id);
    await page.getByRole('region', { name: 'Cancelled' }).getByText('From the command line').waitFor();
    assert.equal(await page.evaluate(() => window.__sameLoad), true);
  });

  test('output comes live with its colours, can be searched and downloaded', async () => {
    await page.goto(`${node.url}/ui/tasks/${hive.long}`);
    const log = page.getByRole('log', { name: 'Output' });
    await log.getByText('checked 5 queues').waitFor();
    const before = await log.textContent();
    await until('more comes by itself', async () => (await log.textContent()) !== before);
    assert.notEqual(
      await log
        .getByText('ok')
        .first()
        .evaluate((piece) => getComputedStyle(piece).color),
      'rgb(230, 232, 235)',
    );
    await page.getByLabel('Search the output').fill('checked 2 ');
    await page.getByText('1 of 1').waitFor();
    const [download] = await Promise.all([
      page.waitForEvent('download'),
      page.getByRole('button', { name: 'Download' }).click(),
    ]);
    assert.match(readFileSync(await download.path(), 'utf8'), /\x1b\[32mok\x1b\[0m {2}checked 1 queues\n/);
  });

  test('a task says why it waits, how it was placed, what it was asked and what it returned', async () => {
    await page.goto(`${node.url}/ui/tasks/${hive.release}`);
    await page.getByText('waits for').waitFor();
    await page.getByRole('tab', { name: 'Graph' }).click();
    await page.locator('.react-flow__node', { hasText: 'Lint' }).waitFor();
    await page.goto(`${node.url}/ui/tasks/${hive.dead}?tab=decision`);
    await page.getByText('was placed by').waitFor();
    await page.getByText('(chosen)').waitFor();
    assert.equal(await page.getByRole('list', { name: 'Attempts' }).getByRole('listitem').count(), 3);
    await page.goto(`${node.url}/ui/tasks/${hive.scatter}`);
    await page.getByRole('tab', { name: 'Work and result' }).click();
    await page.getByRole('region', { name: 'Result' }).getByText('dashboard').waitFor();
  });

  test('a dead letter is edited and sent on its way again from its page', async () => {
    await page.goto(`${node.url}/ui/tasks/${hive.dead}`);
    await page.getByRole('button', { name: 'Edit and run again' }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel('Program and arguments').fill('');
    await dialog.getByText('A command needs a program').waitFor();
    assert.equal(await dialog.getByRole('button', { name: 'Run again' }).isDisabled(), true);
    await dialog.getByLabel('Program and arguments').fill('sh\n-c\necho mended');
    await node.ask('mutation($i:CancelTaskInput!){cancelTask(input:$i){cursor}}', { i: { task: hive.long } });
    await dialog.getByRole('button', { name: 'Run again' }).click();
    await node.ended(hive.dead, 'SUCCEEDED');
    await page.locator('.state', { hasText: 'succeeded' }).first().waitFor();
  });

  test('cancelling says what comes of it, and can be thought better of', async () => {
    const id = await node.shell('To be cancelled', 'sleep 600', { swarm: 'builders' });
    await page.goto(`${node.url}/ui/tasks/${id}`);
    await page.getByRole('button', { name: 'Cancel', exact: true }).click();
    await page.getByRole('dialog').getByText('Tasks that depend on it').waitFor();
    await page.getByRole('button', { name: 'Keep as it is' }).click();
    assert.notEqual(await status(id), 'CANCELLED');
    await page.getByRole('button', { name: 'Cancel', exact: true }).click();
    await page.getByRole('button', { name: 'Cancel the task' }).click();
    await node.ended(id, 'CANCELLED');
    await page.getByText('The task is cancelled.').waitFor();
  });

  test('the table filters by what its address says, and a saved view brings it back', async () => {
    await page.goto(`${node.url}/ui/tasks?view=table&swarm=builders`);
    const rows = page.getByRole('table', { name: 'Tasks' }).getByRole('row');
    await rows.filter({ hasText: 'Build part 8' }).waitFor();
    assert.equal(await rows.filter({ hasText: 'Deploy to staging' }).count(), 0);
    await page.getByLabel('Title contains').fill('part 3');
    await rows.filter({ hasText: 'Build part 8' }).waitFor({ state: 'detached' });
    await until('its address has the filter', () => page.url().includes('title=part'));
    await page.getByRole('button', { name: 'Views' }).click();
    await page.getByLabel('Name of the view').fill('Part three');
    await page.getByRole('button', { name: 'Save' }).click();
    await page.goto(`${node.url}/ui/tasks`);
    await page.getByRole('button', { name: 'Views' }).click();
    await page.getByRole('menuitem', { name: 'Part three' }).click();
    await rows.filter({ hasText: 'Build part 3' }).waitFor();
    assert.equal(await rows.filter({ hasText: 'Build part 8' }).count(), 0);
  });

  test('an agent is paused, resumed, stopped and started from its page', async () => {
    const { agents } = await node.ask('{agents(filter:{swarm:"fleet"},first:1){nodes{id}}}');
    const id = agents.nodes[0].id;
    await page.goto(`${node.url}/ui/agents/${id}`);
    await page.getByRole('button', { name: 'Pause' }).click();
    await page.getByRole('menuitem', { name: /After what it runs/ }).click();
    await page.getByRole('button', { name: 'Resume' }).click();
    await page.getByRole('button', { name: 'Stop', exact: true }).click();
    await confirm(page, 'Stop');
    await page.getByRole('button', { name: 'Start', exact: true }).click();
    await until('it lives', async () => (await status(id)) === 'IDLE');
    await page.getByRole('tab', { name: 'History' }).click();
    await page.getByText('Agent paused').or(page.getByText('Agent pause asked')).first().waitFor();
  });

  test('a question of a coding agent is answered here, and its work goes on', async () => {
    await page.goto(`${node.url}/ui/agents/${hive.coder}`);
    const question = page.getByRole('article', { name: 'Question about Write' });
    await question.getByText('notes.txt').first().waitFor();
    await question.getByRole('button', { name: 'Allow' }).click();
    await question.waitFor({ state: 'detached' });
    await node.ended(hive.coding, 'SUCCEEDED');
    await page.goto(`${node.url}/ui/tasks/${hive.coding}`);
    await page.getByRole('log', { name: 'Activity' }).getByText('allowed it').waitFor();
    await page.goto(`${node.url}/ui/approvals`);
    await page.getByRole('row', { name: /allowed.*Write.*coder/ }).waitFor();
  });

  test('a terminal is looked at until it is taken over, and what is typed then reaches the program', async () => {
    await page.goto(`${node.url}/ui/agents/${hive.shell}`);
    const terminal = page.locator('.terminal[data-phase]');
    await page.locator('[data-phase="attached"]').waitFor();
    await page.locator('.xterm-screen').click();
    await page.keyboard.type('echo unwanted$((1+1))\n');
    await page.getByRole('button', { name: 'Take over' }).click();
    await page.getByText('You type.').waitFor();
    await page.locator('[data-phase="attached"][data-typing="true"]').waitFor();
    await page.locator('.xterm-helper-textarea').focus();
    await page.keyboard.type('echo wanted$((40+2))\n');
    await until('its answer shows', async () => (await terminal.textContent()).includes('wanted42'));
    assert.ok(!(await terminal.textContent()).includes('unwanted2'), 'what was typed while only looking was not sent');
  });

  test('a fault is injected from the tree, and its recovery is shown with its measured time', async () => {
    const path = `node/swarms/${hive.swarm.fleet}`;
    await page.goto(`${node.url}/ui/tree?actor=${encodeURIComponent(path)}`);
    await live(page);
    await page.getByRole('button', { name: 'Inject a fault' }).click();
    await confirm(page, 'Inject');
    await page.getByText('The fault is armed').waitFor();
    await node.shell('Wakes the coordinator', 'true', { swarm: 'fleet' }).catch(() => {});
    const changes = page.getByRole('list', { name: 'Changes' });
    await changes
      .getByText(/^failed/)
      .first()
      .waitFor();
    await changes
      .getByText(/^is back after \d+(\.\d)? (ms|s)$/)
      .first()
      .waitFor();
    await until('its time is on the page', async () =>
      /\d ms|\d s/.test(await page.locator('[data-recovered]').textContent()),
    );
    await page
      .getByRole('treeitem')
      .filter({ hasText: hive.swarm.fleet.slice(-6) })
      .locator('.num', { hasText: /^1$/ })
      .waitFor();
  });

  test('the tree is searched and collapsed', async () => {
    await page.goto(`${node.url}/ui/tree`);
    await page
      .getByRole('treeitem', { name: /ledger/ })
      .first()
      .waitFor();
    await page.getByRole('button', { name: 'Close all' }).click();
    await page.getByRole('treeitem', { name: /transcripts/ }).waitFor({ state: 'detached' });
    await page.getByLabel('Find').fill('transcripts');
    await page.getByRole('treeitem', { name: /transcripts/ }).waitFor();
    assert.equal(await page.getByRole('treeitem', { name: /ledger/ }).count(), 0);
  });

  test('a swarm is scaled from its page', async () => {
    await page.goto(`${node.url}/ui/swarms/${hive.swarm.builders}`);
    await page.getByRole('button', { name: 'Scale' }).click();
    await page.getByRole('dialog').getByLabel('Agents it shall have').fill('8');
    await page.getByText('2 more are made').waitFor();
    await confirm(page, 'Scale');
    await page.locator('.react-flow__node', { hasText: 'builder-8' }).waitFor();
  });

  test('hosts are seen by how full they are, and what is not measured is not shown as a figure', async () => {
    await page.goto(`${node.url}/ui/hosts`);
    const cell = (name) => page.locator('.heat-cell', { hasText: name });
    await cell('rack-1').getByText('25 %').waitFor();
    await page.getByText('Memory promised', { exact: true }).last().click();
    await cell('rack-1').getByText('75 %').waitFor();
    await page.locator('.heat-cell[data-heat="3"]', { hasText: 'rack-1' }).waitFor();
    // It was drained: what ran on it is elsewhere.
    await page.locator('.heat-cell[data-heat="0"]', { hasText: 'rack-3' }).waitFor();
    await page.getByText('Memory used', { exact: true }).click();
    await cell('rack-1').getByText('not known').waitFor();
    // It has no VM: that nothing is used is known without measuring.
    await cell('rack-3').getByText('0 %').waitFor();
    await page.goto(`${node.url}/ui/hosts?status=FAILED`);
    const rows = page.getByRole('table', { name: 'VMs' }).getByRole('row');
    await rows.filter({ hasText: 'broken' }).waitFor();
    assert.equal(await rows.count(), 2);
    await rows.getByRole('link', { name: 'broken' }).click();
    await page.getByText('there is no image').first().waitFor();
  });

  test('a VM says what it shall be and what it is, and is paused, resumed, stopped, started and removed from its page', async () => {
    const id = hive.vm['web-1'];
    const { node: vm } = await node.ask('query($v:ID!){node(id:$v){... on Vm{placement{strategy eligible}}}}', {
      v: id,
    });
    await page.goto(`${node.url}/ui/vms/${id}`);
    await page.getByText(`out of ${vm.placement.eligible} eligible host`).waitFor();
    const observed = (words) => page.getByRole('definition').filter({ hasText: words });
    await observed('running').first().waitFor();
    const confirmed = async (name, consequence) => {
      await page.getByRole('button', { name, exact: true }).click();
      await page.getByRole('dialog').getByText(consequence).waitFor();
      await confirm(page, name);
    };
    await confirmed('Pause', 'Its CPUs stand still');
    await page.getByRole('button', { name: 'Resume' }).click();
    await confirmed('Reboot', 'what it has not written is gone');
    await confirmed('Stop', 'power button is pressed');
    await page.getByRole('button', { name: 'Start', exact: true }).waitFor();
    await observed('shut down').waitFor();
    await page.getByRole('button', { name: 'Start', exact: true }).click();
    await page.getByRole('button', { name: 'Stop', exact: true }).click();
    await page.getByLabel('Pull the plug at once').click();
    await page.getByText('has not written to its disks is lost').waitFor();
    await confirm(page, 'Pull the plug');
    await observed('destroyed').waitFor();
    const operations = panel(page, 'Operations');
    const ended = operations.getByRole('row').filter({ hasText: 'succeeded' });
    await until('each operation has its end', async () => (await ended.count()) === 7);
    await confirmed('Remove', 'with its disks');
    await page.getByRole('heading', { name: 'Hosts and VMs' }).waitFor();
    assert.equal((await node.ask('query($v:ID!){node(id:$v){id}}', { v: id })).node, null);
  });

  test('a host is drained with its progress, and taken back; one is added and removed', async () => {
    await page.goto(`${node.url}/ui/hosts/${hive.host['rack-2']}`);
    await page.getByRole('button', { name: 'Drain', exact: true }).click();
    await page.getByRole('dialog').getByText('moves to').first().waitFor();
    await confirm(page, 'Drain');
    await page.getByText('Nothing runs on it any more').waitFor();
    await page.getByRole('button', { name: 'Take VMs again' }).click();
    await page.getByRole('button', { name: 'Drain', exact: true }).waitFor();
    await page.goto(`${node.url}/ui/hosts`);
    await page.getByRole('button', { name: 'Add a host' }).click();
    await page.getByLabel('Name').fill('rack-5');
    await page.getByLabel('Address of its hypervisor').fill('gopher://x');
    await page.getByRole('dialog').getByRole('button', { name: 'Add' }).click();
    await page.getByRole('dialog').getByRole('alert').filter({ hasText: 'gopher' }).waitFor();
    await page.getByLabel('Address of its hypervisor').fill('simulated://rack-5?cpus=4');
    await confirm(page, 'Add');
    await page
      .getByRole('link', { name: /rack-5/ })
      .getByText('4 CPUs')
      .waitFor();
    await page.getByRole('link', { name: /rack-5/ }).click();
    await page.getByRole('button', { name: 'Remove' }).click();
    await confirm(page, 'Remove');
    await page.getByRole('heading', { name: 'Hosts and VMs' }).waitFor();
    await page.getByRole('link', { name: /rack-5/ }).waitFor({ state: 'detached' });
  });

  test('a VM moves to another host while it runs, and its page says so', async () => {
    const id = hive.vm['web-2'];
    const where = () => node.ask('query($v:ID!){node(id:$v){... on Vm{status host{name}}}}', { v: id });
    const before = (await where()).node.host.name;
    await page.goto(`${node.url}/ui/vms/${id}`);
    await page.getByRole('button', { name: 'Migrate', exact: true }).click();
    await page.getByRole('dialog').getByText('If it fails, the VM runs on where it is').waitFor();
    await confirm(page, 'Migrate');
    const operations = panel(page, 'Operations');
    const after = await until('it runs elsewhere', async () => {
      const { node: vm } = await where();
      return vm.status === 'RUNNING' && vm.host.name !== before && vm;
    });
    await operations.getByRole('row').nth(1).filter({ hasText: 'migrate' }).filter({ hasText: 'succeeded' }).waitFor();
    await page.getByRole('definition').getByRole('link', { name: after.host.name, exact: true }).waitFor();
  });

  test('a VM is taken back to a snapshot, and its console is read and typed at', async () => {
    const id = hive.vm['web-2'];
    await page.goto(`${node.url}/ui/vms/${id}`);
    const snapshots = panel(page, 'Snapshots');
    await snapshots.getByText('It has no snapshots').waitFor();
    await snapshots.getByRole('button', { name: 'Take one' }).click();
    await page.getByLabel('Snapshot’s name').fill('before');
    await confirm(page, 'Take it');
    const row = snapshots.getByRole('row').filter({ hasText: 'before' });
    await row.filter({ hasText: 'disks and memory' }).waitFor();
    await row.getByRole('button', { name: 'Revert' }).click();
    await page.getByRole('dialog').getByText('gone for good').waitFor();
    await confirm(page, 'Revert');
    const operations = panel(page, 'Operations');
    await operations
      .getByRole('row')
      .nth(1)
      .filter({ hasText: 'revert before' })
      .filter({ hasText: 'succeeded' })
      .waitFor();
    await row.getByRole('button', { name: 'Remove' }).click();
    await confirm(page, 'Remove');
    await snapshots.getByText('It has no snapshots').waitFor();

    await page.getByRole('button', { name: 'Open', exact: true }).click();
    await page.locator('[data-phase="attached"]').waitFor();
    await page.getByText('You only look').waitFor();
    await page.getByRole('button', { name: 'Type', exact: true }).click();
    await page.keyboard.type('typed-by-hand');
    await page.keyboard.press('Enter');
    await page.locator('.terminal').getByText('typed-by-hand').first().waitFor();
    // It is recorded: who opens it again reads it.
    await page.goto(`${node.url}/ui/vms/${id}?console=true`);
    await page.locator('.terminal').getByText('typed-by-hand').first().waitFor();
  });

  test('an image is taken in with a checksum that must be right, and taken out', async () => {
    const file = join(mkdtempSync(join(tmpdir(), 'hiveward-image-')), 'disk.raw');
    writeFileSync(file, Buffer.alloc(1 << 20));
    await page.goto(`${node.url}/ui/hosts`);
    const images = panel(page, 'Images');
    await images.getByText('There are no images').waitFor();
    await images.getByRole('button', { name: 'Take an image in' }).click();
    await page.getByLabel('Name').fill('empty-disk');
    await page.getByLabel('File or URL').fill(file);
    await page.getByLabel('Checksum').fill(`sha256:${'0'.repeat(64)}`);
    await page.getByRole('dialog').getByRole('button', { name: 'Take it in' }).click();
    await page.getByRole('dialog').getByRole('alert').filter({ hasText: 'nothing is kept' }).waitFor();
    const sha256 = createHash('sha256').update(readFileSync(file)).digest('hex');
    await page.getByLabel('Checksum').fill(`sha256:${sha256}`);
    await confirm(page, 'Take it in');
    const row = images.getByRole('row').filter({ hasText: 'empty-disk' });
    await row.filter({ hasText: '1.0 MiB' }).waitFor();
    await row.getByRole('button', { name: 'Remove' }).click();
    await confirm(page, 'Remove');
    await images.getByText('There are no images').waitFor();
    rmSync(file.replace(/disk\.raw$/, ''), { recursive: true });
  });

  test('a file that a task left is downloaded whole', async () => {
    const id = await node.shell('Leaves a file', "head -c 1500000 /dev/zero | tr '\\0' x; echo end", {
      swarm: 'builders',
    });
    await node.ended(id, 'SUCCEEDED');
    await page.goto(`${node.url}/ui/tasks/${id}?tab=work`);
    const [download] = await Promise.all([
      page.waitForEvent('download'),
      page.getByRole('button', { name: 'Download stdout' }).click(),
    ]);
    const text = readFileSync(await download.path(), 'utf8');
    assert.equal(text.length, 1_500_004);
    assert.ok(text.endsWith('xend\n'));
  });

  test('events are read from a moment on', async () => {
    const { events } = await node.ask('{events(first:500){nodes{cursor at}}}');
    const after = await node.ask('{cluster{cursor}}');
    const at = new Date(Date.parse(events.nodes.at(-10).at)).toISOString();
    await page.goto(`${node.url}/ui/events?at=${encodeURIComponent(at)}`);
    const first = await node.ask('query($t:DateTime){events(first:1,since:$t){nodes{cursor}}}', { t: at });
    assert.ok(BigInt(first.events.nodes[0].cursor) <= BigInt(after.cluster.cursor));
    await page.getByRole('region', { name: 'Events' }).locator('.event').first().waitFor();
    await until('it begins there', async () => {
      await page.getByRole('region', { name: 'Events' }).evaluate((region) => region.scrollTo(0, region.scrollHeight));
      const cursors = await page.locator('.event').evaluateAll((all) => all.map((row) => Number(row.dataset.cursor)));
      return Math.min(...cursors) === Number(first.events.nodes[0].cursor);
    });
  });

  test('everything can be found from one box by the keyboard alone', async () => {
    await live(page);
    await page.keyboard.press('/');
    await page.getByPlaceholder('A title, a name').waitFor();
    await page.keyboard.type('release notes');
    await page.getByRole('option', { name: /Write the release notes/ }).waitFor();
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: 'Write the release notes' }).waitFor();
    // Who does not wait for what is found goes there all the same.
    await page.keyboard.press('/');
    await page.getByPlaceholder('A title, a name').fill('release notes');
    await page.keyboard.press('Enter');
    await page.getByPlaceholder('A title, a name').waitFor({ state: 'detached' });
    await page.getByRole('heading', { name: 'Write the release notes' }).waitFor();
    await page.keyboard.press('g');
    await page.keyboard.press('t');
    await page.getByRole('heading', { name: 'Tasks', exact: true }).waitFor();
    await page.keyboard.press('/');
    await page.getByPlaceholder('A title, a name').fill(hive.shell);
    await page.getByRole('option', { name: /Go to/ }).waitFor();
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: 'shell' }).waitFor();
  });

  test('events are read from the beginning, filtered, and held while it is paused', async () => {
    await page.goto(`${node.url}/ui/events?from=start`);
    const region = page.getByRole('region', { name: 'Events' });
    await region.getByText('Task submitted').first().waitFor();
    await page.goto(`${node.url}/ui/events?from=start&kind=SwarmAdded`);
    await page.getByText('3 shown').waitFor();
    await page.getByRole('button', { name: 'Pause' }).click();
    await node.cli('swarm', 'create', 'later', '-q');
    await page.getByRole('button', { name: 'Go on (1 wait)' }).click();
    await page.getByText('4 shown').waitFor();
  });

  test('a budget is set and taken away', async () => {
    await page.goto(`${node.url}/ui/spend`);
    await page.getByRole('button', { name: 'Set a budget' }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel('Name or key').fill('builders');
    await dialog.getByLabel('Tokens at most').fill('5000');
    await dialog.getByRole('button', { name: 'Set', exact: true }).click();
    const line = page.getByRole('listitem').filter({ hasText: 'builders' });
    await line.getByText('0 of 5000 tokens').waitFor();
    await line.getByRole('button', { name: 'Remove' }).click();
    await confirm(page, 'Remove');
    await line.waitFor({ state: 'detached' });
  });

  test('a join token is shown once, and only when asked for', async () => {
    await page.goto(`${node.url}/ui/cluster`);
    await page.getByRole('button', { name: 'Add a node' }).click();
    await page.getByRole('button', { name: 'Make a token' }).click();
    await page.getByText(/hiveward up --join/).waitFor();
    await page.getByRole('button', { name: 'Done' }).click();
    await page.getByText(/hiveward up --join/).waitFor({ state: 'detached' });
  });

  test('GraphiQL works under its own policy, with the token of the dashboard', async () => {
    await page.goto(`${node.url}/graphql`);
    // Its button does nothing before both editors are there.
    await page.locator('.graphiql-query-editor').getByText('viewLag').first().waitFor({ timeout: 60_000 });
    await page.locator('.result-window .monaco-editor').first().waitFor();
    await page.locator('.graphiql-execute-button').click();
    await page.locator('.result-window').getByText('viewLag').first().waitFor({ timeout: 60_000 });
    page.faults = page.faults.filter((fault) => !/monaco|worker/i.test(fault));
  });
});
