"""The contracts every part of hotbed shares: messages, ids, resources, states and errors. Imports nothing of ours."""
