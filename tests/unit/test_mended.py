"""What using the pages showed to be broken, each with the test that fails if it breaks again."""

import ast
import re

import pytest

from tests.support import REPOSITORY

MENDED = """
B1 the admin link took a visitor's chats
    browser/test_admin_pages.py
    test_only_admins_come_in
B2 a session that ended made the page mute
    browser/test_editing.py
    test_a_draft_is_kept_for_its_writer_alone
B3 only $$ was mathematics
    browser/test_markdown.py
    test_no_reply_becomes_more_than_text_and_code_is_shown_as_written
B4 settings were unreadable in a terminal
    integration/test_cli.py
    test_settings_say_where_their_values_come_from
B5 an export threw the admin page away
    browser/test_admin_pages.py
    test_data_in_and_out
B6 an older version by hand could not be undone
    unit/storage/registry/test_model_versions.py
    test_rolling_back_undoes_the_deployment_of_an_older_version
B7 the header was wider than a phone
    browser/test_editing.py
    test_a_draft_is_kept_for_its_writer_alone
B8 the drawer on a phone had no end
    browser/test_chat_page.py
    test_phone
B9 tables broke words, boxes were white on white
    browser/test_markdown.py
    test_no_reply_becomes_more_than_text_and_code_is_shown_as_written
B10 names for screen readers
    browser/test_accessibility.py
    test_a_screen_reader_hears_who_says_what_and_the_keyboard_scrolls_code
B10 the focus after an arrow
    browser/test_branches.py
    test_an_earlier_reply_is_voted_on_and_gone_on_from
B11 half a reply was gone after a kill
    browser/test_chat_page.py
    test_page_whose_reply_died_with_the_server_comes_back_with_it
B11 sending without a server was swallowed
    browser/test_editing.py
    test_message_that_the_server_did_not_get_comes_back
B12 thumbs below an empty reply
    unit/app/pages/test_transcript.py
    test_a_reply_from_which_nothing_can_be_learned_has_no_thumbs
B12 a vote without consent looked like any
    browser/test_vote_details.py
    test_consent_is_the_chats_own
B13 Escape threw a comment away
    browser/test_vote_details.py
    test_tags_comment_and_correction_are_changes_of_the_same_vote
B14 people who chat read names of settings
    unit/app/web/test_languages.py
    test_a_language_says_what_english_says
B15 the admin's banner stayed
    browser/test_admin_pages.py
    test_train_deploy_and_roll_back
B16 unknown addresses gave a browser JSON
    browser/test_languages.py
    test_signing_in_and_sessions
B17 editing seemed to delete
    browser/test_editing.py
    test_edited_message_stands_in_the_place_of_the_first
B17 the title kept the first wording
    browser/test_chat_list.py
    test_title_of_a_chat_follows_its_edited_first_message
B18 1 chats
    unit/app/pages/test_html.py
    test_one_has_no_plural
B19 a second tab heard nothing
    browser/test_chat_list.py
    test_a_second_tab_of_a_chat_learns_what_the_first_did
"""
BROKEN = re.findall(r"^(B\d+) (.+)\n +(\S+)\n +(\S+)$", MENDED, re.MULTILINE)


@pytest.mark.parametrize(("number", "what", "path", "name"), BROKEN)
def test_it_has_a_test(number: str, what: str, path: str, name: str) -> None:
    tree = ast.parse((REPOSITORY / "tests" / path).read_text(encoding="utf-8"))
    tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert name in tests, f"{number}, {what}: {path} has no test {name}"


def test_nothing_was_forgotten() -> None:
    assert {number for number, *_ in BROKEN} == {f"B{number}" for number in range(1, 20)}
