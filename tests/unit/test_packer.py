"""What Packer says, read from the form that it has for machines."""

import pytest

from builder.packer import Message, read_message


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "1795214754,,ui,say,==> null.stage: Connected to SSH!",
            Message("say", "==> null.stage: Connected to SSH!"),
        ),
        (
            "1795214754,,ui,message,    null.stage: hello%!(PACKER_COMMA) world",
            Message("message", "    null.stage: hello, world"),
        ),
        (
            r"1795214754,null.stage,ui,error,Error: one\n\n  in b.hcl%!(PACKER_COMMA) line 1\n",
            Message("error", "Error: one\n\n  in b.hcl, line 1\n"),
        ),
        ("1795214754,,ui,say,", Message("say", "")),
        ("1795214754,null.stage,error,Script exited", None),
        ("1795214754,,error-count,1", None),
        ("1795214754,null.stage,artifact,0,builder-id,null", None),
        ("$ packer build stage.pkr.hcl", "$ packer build stage.pkr.hcl"),
        ("panic: 12, 13", "panic: 12, 13"),
        ("", ""),
    ],
)
def test_a_line_of_packer(line, said):
    assert read_message(line) == said
