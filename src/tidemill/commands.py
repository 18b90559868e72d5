"""Every command of ``tidemill``, in one table: what it is called, where it is, under which heading.

``tidemill --help``, the shell's completion and docs/cli.md are written from it. It names modules and imports
none of them.
"""

from __future__ import annotations

from tidemill.cli.lazy import Command

DAILY = "Daily"
MONEY = "Money"
ACCOUNT = "Account"
HERE = "This command"
REMOTE = "Operator, from anywhere"
OPERATOR = "Operator, on the server's machine"

COMMANDS = (
    Command("launch", "tidemill.cli.launch:launch", DAILY, "Launch an instance, and print how to enter it."),
    Command(
        "price",
        "tidemill.cli.price:price",
        DAILY,
        "Show what can be rented, what it costs, and what is in stock.",
        ("types",),
    ),
    Command("ls", "tidemill.cli.instances:ls", DAILY, "List your instances, the newest first."),
    Command(
        "ssh",
        "tidemill.cli.entering:ssh",
        DAILY,
        "Enter an instance, or run a command in it.",
        passes_on=True,
    ),
    Command(
        "cp",
        "tidemill.cli.entering:cp",
        DAILY,
        "Copy files into an instance, or out of it.",
        passes_on=True,
    ),
    Command(
        "open",
        "tidemill.cli.opening:open_",
        DAILY,
        "Open a port of an instance in the browser, and print its address.",
    ),
    Command(
        "ssh-config",
        "tidemill.cli.ssh_config:ssh_config",
        DAILY,
        "Let ssh, rsync, VS Code and JetBrains use the names of instances.",
    ),
    Command("show", "tidemill.cli.looking:show", DAILY, "Show an instance: how to enter it, what it costs."),
    Command(
        "logs",
        "tidemill.cli.looking:logs",
        DAILY,
        "Print what the init script and the console printed, as it is.",
    ),
    Command(
        "events",
        "tidemill.cli.looking:events",
        DAILY,
        "Show what happened to an instance, and what happens.",
    ),
    Command("stop", "tidemill.cli.verbs:stop", DAILY, "Stop instances; their disks are kept."),
    Command("start", "tidemill.cli.verbs:start", DAILY, "Start stopped instances again."),
    Command("restart", "tidemill.cli.verbs:restart", DAILY, "Stop and start instances."),
    Command(
        "rm",
        "tidemill.cli.verbs:rm",
        DAILY,
        "End instances for good, with their disks.",
        ("terminate",),
    ),
    Command("image", "tidemill.cli.catalogue:image", DAILY, "Images that instances are launched from."),
    Command("region", "tidemill.cli.catalogue:region", DAILY, "Regions that take launches."),
    Command("balance", "tidemill.cli.money:balance", MONEY, "Show what you own, and for how long it lasts."),
    Command("top", "tidemill.cli.money:top", MONEY, "Watch what there is, and what it comes to."),
    Command(
        "usage", "tidemill.cli.money:usage", MONEY, "Show how long each instance ran, and what that cost."
    ),
    Command("statement", "tidemill.cli.money:statement", MONEY, "Show every change of what you own."),
    Command(
        "ledger",
        "tidemill.cli.money:ledger",
        MONEY,
        "Show your ledger, the newest posting first.",
    ),
    Command("cap", "tidemill.cli.money:cap", MONEY, "Caps on what may be spent."),
    Command(
        "login",
        "tidemill.cli.account:login",
        ACCOUNT,
        "Log in at a server, which is the current one from then on.",
    ),
    Command("logout", "tidemill.cli.account:logout", ACCOUNT, "Forget how one is known at a server."),
    Command(
        "me",
        "tidemill.cli.account:me",
        ACCOUNT,
        "Show whose account it is, and what the credential in use may do.",
        ("whoami",),
    ),
    Command(
        "key", "tidemill.cli.key:app", ACCOUNT, "The ssh keys of your account, which open your instances."
    ),
    Command("apikey", "tidemill.cli.apikeys:app", ACCOUNT, "API keys: what programs prove themselves with."),
    Command("config", "tidemill.cli.config:app", HERE, "The servers that this command knows, by name."),
    Command("completion", "tidemill.cli.completion:completion", HERE, "Print the shell's completion."),
    Command("admin", "tidemill.cli.admin:app", REMOTE, "What the operator does over the API."),
    *(
        Command(name, f"tidemill.operate.{target}", OPERATOR, help)
        for name, target, help in (
            ("serve", "serving:serve", "Run the server in the foreground."),
            ("init", "founding:init", "Make data folder, keys, database and the first accounts."),
            ("add-user", "founding:add_user", "Make another account and print its password."),
            ("credit", "founding:credit", "Write down that a user paid in."),
            ("backup", "copying:backup", "Write a copy of the deployment while its server goes on."),
            ("restore", "copying:restore", "Make a backup the deployment of an empty data folder."),
            ("doctor", "checking:doctor", "Compare database, engine and machine."),
            ("audit", "checking:audit", "Reckon every charge a second time."),
            ("guest", "building:guest", "Build what goes into every instance."),
            ("base-image", "building:base_image", "Make the small Debian base image."),
        )
    ),
)
