"""What is printed is printed as it is."""

from rich.table import Table

from fourd4d.core.terminal import plain_console


def test_markup_and_emoji_codes_in_data_are_printed(capsys):
    console = plain_console(width=60)
    table = Table("type")
    table.add_row("[/b] [red]x[/red] :smile:")
    console.print(table)
    console.print("runs/[x] :cat:/page.html", soft_wrap=True)
    printed = capsys.readouterr().out
    assert "[/b] [red]x[/red] :smile:" in printed and "runs/[x] :cat:/page.html" in printed
