"""Tables, figures and pages. This room draws the values of verdict.json and of the results as they stand.

May import archive, judge, plan and files; never torch.
"""
