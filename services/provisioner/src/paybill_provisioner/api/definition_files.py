"""Request bodies with a file in YAML that a person publishes, and their parameters."""

from typing import Annotated

from fastapi import Query
from paybill_contracts.inputs import PlainText
from paybill_runtime.http.problems import Problem

FileName = Annotated[PlainText, Query(description="The file name in the lines that report errors.")]
DryRun = Annotated[bool, Query(description="Report the changes and the reasons for a refusal; change nothing.")]

YAML_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/yaml": {"schema": {"type": "string", "description": "The file in YAML, UTF-8."}}},
    }
}


def text_of(body: bytes, file: str, code: str) -> str:
    """Returns the text of a body. Raises Problem with this code if it is not UTF-8."""
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Problem(422, code, f"{file}:1: the file is not UTF-8: {error.reason}") from None
