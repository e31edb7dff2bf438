"""Report sinks, a module for each; ``own_files.REPORTS`` has a row for each that an option asks for.

failure_sections  what a failing test shows of its steps, wherever captured output is shown
junit             properties in junitxml
html              a text beside a test in pytest-html's page
allure            an attachment of a test in allure's results
"""
